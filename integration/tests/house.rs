//! The house rules, in a module of that name, so that `cargo test -p integration house` runs them all
//! and nothing else.

#[path = "house/rules.rs"]
mod house;
