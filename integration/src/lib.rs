//! Runs the real binary: a harness that starts it on free ports and temporary directories, waits on
//! conditions, and always stops what it started; and the programs in `bin/` that prove what is
//! promised.
//!
//! Rooms: [`binary`] (builds or finds `auxo`), [`standalone`] (one node as a child process),
//! [`cluster`] (several on a real log), [`http`] (what the programs ask of it), [`servers`] (real servers that tests run on),
//! [`proxy`] (what breaks connections), [`load`] (writers that go on through anything, and the judge of what they wrote),
//! [`zombie`] (leaders that are stopped and woken), [`told`] (what clients were told), [`topics`] (Kafka's topics as its
//! administrators see them),
//! [`power_loss`] (disks as a loss of power leaves them), [`wait`] (conditions with a deadline),
//! [`disk`] (where temporary directories go); [`queries`] (the benchmark's fifteen), [`duckdb`] (the
//! oracle for them), [`compare`] (answers row by row), [`zero_line`] (plain DataFusion on our files),
//! [`process`] (what a process used and has not read), [`peers`] (other databases, to be measured beside ours).
//!
//! Never here: a mock of a server that can run, a sleep that hopes, a process found by name.

pub mod binary;
pub mod cluster;
pub mod compare;
pub mod disk;
pub mod duckdb;
pub mod http;
pub mod load;
pub mod peers;
pub mod power_loss;
pub mod process;
pub mod proxy;
pub mod queries;
pub mod servers;
pub mod standalone;
pub mod told;
pub mod topics;
pub mod wait;
pub mod zero_line;
pub mod zombie;
