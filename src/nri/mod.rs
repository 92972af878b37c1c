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

/// The frames in a stream that comes in pieces of this size, for fuzzing: stream, kind, and the body or how long it was.
#[cfg(any(fuzzing, test))]
pub fn frames(bytes: &[u8], piece: usize) -> Vec<(u32, u8, Result<Vec<u8>, u32>)> {
    let mut decoder = ttrpc::Decoder::default();
    let mut found = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            found.extend(decoder.feed(&mut piece).map(|frame| (frame.stream, frame.kind, frame.body)));
        }
    }
    found
}

/// Decides about a request to create a container, for fuzzing, on a node of 2048 ids.
#[cfg(any(fuzzing, test))]
pub fn decision(request: &[u8]) {
    use crate::map::{idmap::IdMap, kind::Both, pool::NodeIds};
    use crate::pod::{config::PluginConfig, decision, features::RuntimeFeatures};
    let Ok(request) = entries::parse::<proto::nri::CreateContainerRequest>(request) else { return };
    let (Ok(map), Ok(home)) = (IdMap::parse("0 100000 2048"), crate::sys::ns::Home::open()) else { return };
    let Ok(ids) = NodeIds::new(&map) else { return };
    let features = RuntimeFeatures::new("containerd", "v2.4.2", "0.12.5");
    let candidate = adjust::candidate(&request.pod, &request.container, &home);
    let node = Both { uids: ids.clone(), gids: ids };
    if let Ok(maps) = decision::decide(&PluginConfig::default(), &node, &features, &candidate) {
        let _ = adjust::adjustment("/run/x".into(), Vec::new(), &maps);
    }
}
