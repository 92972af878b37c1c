//! How many entries of lists and maps one message may have, so that a small message cannot become a large one in memory.
//! The generated readers count each (build.rs).

use std::cell::Cell;

use protobuf::Message;

/// A node has some hundred pods, and a container some dozen mounts; an entry takes up to 200 bytes.
pub const MAX: u32 = 16_384;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(MAX) };
}

/// Reads a message of at most that many entries.
pub fn parse<M: Message>(bytes: &[u8]) -> protobuf::Result<M> {
    LEFT.set(MAX);
    M::parse_from_bytes(bytes)
}

pub fn count() -> protobuf::Result<()> {
    let left = LEFT.get().checked_sub(1).ok_or_else(|| std::io::Error::other("more than 16384 entries"))?;
    LEFT.set(left);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::proto::nri::{CreateContainerRequest, SynchronizeRequest};

    #[test]
    fn small_messages_stay_small() {
        // Field 1, an empty pod; two bytes each.
        let pods = |n: u32| [0x0a, 0].repeat(n as usize);
        assert_eq!(parse::<SynchronizeRequest>(&pods(MAX)).unwrap().pods.len(), MAX as usize);
        let error = parse::<SynchronizeRequest>(&pods(MAX + 1)).unwrap_err().to_string();
        assert!(error.ends_with("more than 16384 entries"), "{error}");
        // A container (2) of empty mounts (9), and its length as two bytes.
        let mounts = [0x4a, 0].repeat(5000);
        let container = [&[0x12, 0x90, 0x4e][..], &mounts].concat();
        assert_eq!(parse::<CreateContainerRequest>(&container).unwrap().container.mounts.len(), 5000);
        assert!(parse::<CreateContainerRequest>(&container.repeat(4)).is_err());
    }
}
