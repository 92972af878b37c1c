//! What fuzz targets call (tests/fuzz), one function for each kind of hostile input. None may panic, hang or take more memory
//! than its input is worth; whatever has to hold besides is asserted. A unit test plays what was found before.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::cmd::{image, manifest};
use crate::map::idmap::IdMap;
use crate::map::kind::{Both, Kind};
use crate::map::pool::NodeIds;
use crate::nri;
use crate::pod::config::{Overrides, PluginConfig};
use crate::supervise;
use crate::sys::descriptor;

pub type Target = fn(&[u8]);

/// The targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 7] = [
    ("uid_map", uid_map),
    ("filter", filter),
    ("config", config),
    ("manifest", manifest),
    ("image", image),
    ("frames", frames),
    ("request", request),
];

/// `/proc/PID/uid_map`: what is taken is within the kernel's rules, and the rule gives every id a place that is mapped.
pub fn uid_map(data: &[u8]) {
    let Some(map) = std::str::from_utf8(data).ok().and_then(|text| IdMap::parse(text).ok()) else { return };
    let Ok(ids) = NodeIds::new(&map) else { return };
    for id in [0, 1, 999, 1000, 65_534, 65_535, 1 << 31, u32::MAX - 1] {
        let place = ids.place(id);
        assert!(ids.contains(place.0) && (ids.contains(id) || place.0 < ids.pool()));
        assert!(!ids.contains(id) || place.0 == id);
    }
}

/// A node's maps, apart by a NUL, as what the seccomp filter is made of.
pub fn filter(data: &[u8]) {
    let Some((uids, gids)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\0')) else { return };
    let node = |text| IdMap::parse(text).ok().and_then(|map| NodeIds::new(&map).ok());
    let (Some(uids), Some(gids)) = (node(uids), node(gids)) else { return };
    // The kernel takes as many.
    assert!(supervise::filter_length(&Both { uids, gids }) <= 4096);
}

/// The plugin's configuration, and an annotation.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = PluginConfig::parse(text) {
        for kind in Kind::BOTH {
            let _ = config.defaults.claims.of(kind).to_string();
        }
    }
    let _ = Overrides::default().read(text);
}

/// Kubernetes manifests.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(ids) = manifest::scan(text) {
        assert!(ids.len() <= text.len());
    }
}

/// An archive of an image.
pub fn image(data: &[u8]) {
    let Ok(memory) = descriptor::memory_file() else { return };
    let mut file = File::from(memory);
    if file.write_all(data).is_ok() {
        let _ = image::read(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), &mut |_, _| {});
    }
}

/// A stream from the runtime, whole and in pieces: the same frames come of it.
pub fn frames(data: &[u8]) {
    let whole = nri::frames(data, data.len().max(1));
    assert_eq!(whole, nri::frames(data, 1));
}

/// A request to create a container, as far as a decision.
pub fn request(data: &[u8]) {
    nri::decision(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_before_is_no_more() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
            let inputs: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!inputs.is_empty(), "{name}");
            for path in inputs {
                target(&std::fs::read(path).unwrap());
            }
        }
    }
}
