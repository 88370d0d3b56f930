//! What only the local WAL promises: its files, its lock, and what it does when the disk fails.
