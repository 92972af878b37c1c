//! The one rule: where an id that the node lacks is placed.

use std::fmt;
use std::ops::RangeInclusive;

use super::idmap::IdMap;
use super::ranges::Ranges;

/// An id as the node's own namespace names it: the first column of the node's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The ids that the node's namespace maps, and its pool: the run of consecutive ids that starts at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIds {
    ids: Ranges,
    pool: u32,
    /// The ids line by line of the node's own map, ascending.
    lines: Vec<RangeInclusive<u32>>,
}

/// The node does not map id 0, so the rule has no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoot;

impl fmt::Display for NoRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the node's user namespace does not map id 0: start the node as root of its namespace")
    }
}

/// The first slot that the rule gives away. Ids below 1000 are system users and groups by every distribution's convention,
/// root among them: nobody else becomes one of these, as far as the pool has room.
fn base(pool: u32) -> u32 {
    (pool / 2).min(1000)
}

/// Where the rule places an id that a node with this pool lacks, in words.
pub fn rule(pool: u32) -> String {
    match (base(pool), pool - base(pool)) {
        (0, _) => "0".to_owned(),
        (base, slots) => format!("{base} + id mod {slots}"),
    }
}

impl NodeIds {
    /// The ids of the node whose own map this is.
    pub fn new(map: &IdMap) -> Result<NodeIds, NoRoot> {
        let lines: Vec<_> = map.extents().iter().map(|e| e.inside..=e.inside + (e.count - 1)).collect();
        let ids = Ranges::new(lines.clone());
        let first = ids.iter().next().filter(|range| *range.start() == 0).ok_or(NoRoot)?;
        let pool = *first.end() + 1;
        Ok(NodeIds { ids, pool, lines })
    }

    /// Whether the node's kernel knows the id.
    pub fn contains(&self, id: u32) -> bool {
        self.ids.contains(id)
    }

    /// The mapped ids.
    pub fn ids(&self) -> &Ranges {
        &self.ids
    }

    /// Whether a line of the node's own map starts at this id: a line of a container's map must not reach across it.
    pub fn starts_line(&self, id: u32) -> bool {
        self.lines.binary_search_by_key(&id, |line| *line.start()).is_ok()
    }

    /// The mapped ids, line by line of the node's own map.
    pub fn lines(&self) -> &[RangeInclusive<u32>] {
        &self.lines
    }

    /// The pool's length P, at least 1.
    pub fn pool(&self) -> u32 {
        self.pool
    }

    /// The first slot that the rule gives away.
    pub fn base(&self) -> u32 {
        base(self.pool)
    }

    /// `id` itself when the node maps it, else `base + id mod (P - base)`.
    pub fn place(&self, id: u32) -> NodeId {
        match self.contains(id) {
            true => NodeId(id),
            false => NodeId(self.base() + id % (self.pool - self.base())),
        }
    }

    /// Whether the node maps all of 0-65535, so that no image is expected to need more.
    pub fn covers_16_bits(&self) -> bool {
        self.pool > u16::MAX as u32
    }

    /// How many of the ids 0-65535 share their slot with another id of that range.
    pub fn sharing_a_slot(&self) -> u32 {
        let mut users = vec![0u16; self.pool.min(1 << 16) as usize];
        let placed = || (0..1 << 16).map(|id| self.place(id).0);
        for slot in placed() {
            if let Some(n) = users.get_mut(slot as usize) {
                *n = n.saturating_add(1);
            }
        }
        placed().filter(|slot| users.get(*slot as usize).is_some_and(|n| *n > 1)).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn node(map: &str) -> NodeIds {
        NodeIds::new(&IdMap::parse(map).unwrap()).unwrap()
    }

    fn places(node: &NodeIds, cases: &[(u32, u32)]) {
        for (id, slot) in cases {
            assert_eq!(node.place(*id), NodeId(*slot), "place({id})");
        }
    }

    #[test]
    fn plain_pool() {
        let n = node("0 2937359488 2048");
        assert_eq!(n.pool(), 2048);
        let last = super::super::MAX_ID;
        assert_eq!((n.base(), rule(n.pool()).as_str()), (1000, "1000 + id mod 1048"));
        places(
            &n,
            &[(0, 0), (1, 1), (2047, 2047), (2048, 2000), (2095, 2047), (2096, 1000), (4192, 1000), (10001, 1569)],
        );
        places(&n, &[(65532, 1556), (65535, 1559), (1_000_660_000, 1256), (last, 1246)]);
        // 0-999 have their slots alone; 1048 others have theirs with 60 or 61 more.
        assert_eq!(n.sharing_a_slot(), 64536);
    }

    #[test]
    fn native_high_ids() {
        let n = node("0 2937359488 2044\n65532 2937361532 4");
        assert_eq!(n.pool(), 2044);
        places(&n, &[(2043, 2043), (2044, 2000), (2088, 1000), (65532, 65532), (65535, 65535), (65536, 1808)]);
        assert_eq!(n.sharing_a_slot(), 64532);
    }

    #[test]
    fn several_base_extents_are_one_pool() {
        let n = node("0 1000 1\n1 100000 1999");
        assert_eq!(n.pool(), 2000);
        places(&n, &[(1999, 1999), (2000, 1000), (2999, 1999), (3000, 1000)]);
    }

    #[test]
    fn one_id_flattens() {
        let n = node("0 1000 1");
        places(&n, &[(0, 0), (1, 0), (65535, 0)]);
        assert_eq!(rule(1), "0");
    }

    #[test]
    fn a_small_pool_keeps_its_lower_half() {
        places(&node("0 1000 2"), &[(1, 1), (2, 1), (3, 1), (4, 1)]);
        places(&node("0 1000 3"), &[(3, 2), (4, 1), (5, 2)]);
        let n = node("0 1000 1000");
        assert_eq!(rule(1000), "500 + id mod 500");
        places(&n, &[(999, 999), (1000, 500), (1499, 999), (65534, 534)]);
        assert_eq!(node("0 1000 2001").base(), 1000);
    }

    #[test]
    fn whole_ranges_need_nothing() {
        assert!(node("0 0 4294967295").covers_16_bits());
        assert!(node("0 100000 65536").covers_16_bits());
        assert_eq!(node("0 100000 65536").sharing_a_slot(), 0);
        assert!(!node("0 100000 65535").covers_16_bits());
    }

    #[test]
    fn no_root_is_an_error() {
        let map = IdMap::parse("1 100000 10").unwrap();
        assert_eq!(NodeIds::new(&map), Err(NoRoot));
        assert_eq!(NodeIds::new(&IdMap::default()), Err(NoRoot));
    }
}
