//! What a running query promises: limits, memory, cancellation.
