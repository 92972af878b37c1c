//! The Node Resource Interface: its wire, and our side of it.

mod adjust;
mod entries;
pub mod mux;
pub mod plugin;
pub mod session;
pub mod ttrpc;

/// Messages generated from proto/.
#[allow(missing_docs)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/proto/mod.rs"));
}
