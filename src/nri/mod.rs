//! The Node Resource Interface: its wire, and our side of it.

mod adjust;
mod entries;
mod mux;
pub mod options;
mod plugin;
mod run;
mod say;
mod session;
mod ttrpc;

pub use run::{Options, run};

/// Messages generated from proto/.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}
