//! The operator's tools: each reads, says what it found, and changes nothing.

pub mod check;
pub mod container;
pub mod explain;
pub mod image;
pub mod inspect;
pub mod json;
pub mod manifest;
pub mod nest;
pub mod picture;
pub mod plan;
pub mod show;
pub mod source;
pub mod subid;
pub mod text;
pub mod wrap;

use crate::map::idmap::IdMap;

/// A map's extents as Podman and newuidmap write them: `container:host:amount`.
pub fn colons(map: &IdMap) -> impl Iterator<Item = String> + '_ {
    map.extents().iter().map(|e| format!("{}:{}:{}", e.inside, e.outside, e.count))
}
