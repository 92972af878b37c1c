//! From the ids that a user has to a map for a node: a pool, and single high ids beside it.

use std::collections::BTreeSet;

use super::chain::bands;
use super::idmap::{Extent, IdMap, MAX_BYTES, MAX_LINES};
use super::ranges::Ranges;

/// A node's map. Its second column counts the user's ids from 0, in the order in which he has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The map.
    pub map: IdMap,
    /// How many ids it has from 0 on.
    pub pool: u32,
    /// The ids beside the pool.
    pub pinned: Ranges,
    /// Wanted ids that it has not.
    pub left_out: Ranges,
    /// Why not.
    pub limit: Option<Limit>,
}

/// What keeps an id out of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The pool would be less than half of the ids.
    Ids,
    /// The kernel takes 340 lines and 4095 bytes.
    Size,
}

/// Lays out the ids of the namespace around, from 0 on: the wanted ones, most important first, for as many as there is room,
/// and a pool of the rest, of at least half of all. Ids that the pool has need no room.
pub fn lay_out(around: &IdMap, wanted: &[&Ranges]) -> Layout {
    let total = around.extents().iter().map(|e| e.count).sum();
    let least = total - total / 2;
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for id in wanted.iter().flat_map(|set| set.ids()) {
        if id >= least && seen.insert(id) {
            order.push(id);
        }
    }
    let check = |n: usize| -> Result<(IdMap, u32), Limit> {
        let pins: BTreeSet<u32> = order[..n].iter().copied().collect();
        let pool = pool(total, &pins);
        if pool < least {
            return Err(Limit::Ids);
        }
        let map = build(pool, &pins);
        if fits(&map, around) { Ok((map, pool)) } else { Err(Limit::Size) }
    };
    let (mut good, mut bad, mut limit) = (0, order.len().min(total as usize) + 1, None);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        match check(middle) {
            Ok(_) => good = middle,
            Err(why) => (bad, limit) = (middle, Some(why)),
        }
    }
    let (map, pool) = check(good).unwrap_or_else(|_| (build(total, &BTreeSet::new()), total));
    let left = order.split_off(good);
    let [pinned, left_out] = [order, left].map(|ids| Ranges::of(ids).filter(&|id| id >= pool));
    let limit = limit.filter(|_| !left_out.is_empty());
    Layout { map, pool, pinned, left_out, limit }
}

/// The longest pool that leaves room for the pins beyond it.
fn pool(total: u32, pins: &BTreeSet<u32>) -> u32 {
    // The first k for which no more than k pins are beyond what k leaves: then they are k.
    let mut least = total;
    for (k, pin) in pins.iter().rev().enumerate() {
        least = total.saturating_sub(k as u32);
        if *pin < least {
            return least;
        }
        least = least.saturating_sub(1);
    }
    least
}

/// Whether the kernel takes it both of Podman, in the namespace around, and of newuidmap, with the ids outside of that. Both
/// cut lines where lines around end.
fn fits(map: &IdMap, around: &IdMap) -> bool {
    let lines = bands(&[around.clone(), map.clone()]);
    let bytes =
        |at| lines.iter().map(|b| format!("{} {} {}\n", b.firsts[0], b.firsts[at], b.count).len()).sum::<usize>();
    lines.len() <= MAX_LINES && bytes(1).max(bytes(2)) <= MAX_BYTES
}

fn build(pool: u32, pins: &BTreeSet<u32>) -> IdMap {
    let first = Extent { inside: 0, outside: 0, count: pool };
    let beyond = pins.range(pool..).zip(pool..).map(|(pin, id)| Extent { inside: *pin, outside: id, count: 1 });
    IdMap::from_disjoint(std::iter::once(first).filter(|e| e.count > 0).chain(beyond).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// So many ids of the machine, from `outside` on.
    fn around(outside: u32, count: u32) -> IdMap {
        IdMap::from_disjoint(vec![Extent { inside: 0, outside, count }])
    }

    fn laid(total: u32, wanted: &str) -> Layout {
        lay_out(&around(0, total), &[&Ranges::parse(wanted).unwrap()])
    }

    #[test]
    fn pins_take_from_the_end_of_the_pool() {
        let l = laid(2048, "65532-65535");
        assert_eq!(l.map.to_string(), "0 0 2044\n65532 2044 4\n");
        assert_eq!((l.pool, l.pinned.to_string().as_str(), l.limit), (2044, "65532-65535", None));
        // What the pool has needs no pin; what it loses to other pins does.
        assert_eq!(laid(2048, "5,2047").map.to_string(), "0 0 2048\n");
        assert_eq!(laid(2048, "2047,2046,65535").map.to_string(), "0 0 2045\n2046 2045 2\n65535 2047 1\n");
        assert_eq!(laid(2048, "2047,65535").map.to_string(), "0 0 2046\n2047 2046 1\n65535 2047 1\n");
        assert_eq!(laid(65537, "65535").map.to_string(), "0 0 65537\n");
    }

    #[test]
    fn half_of_the_ids_stay_in_the_pool() {
        let l = laid(10, "100-109");
        assert_eq!(l.map.to_string(), "0 0 5\n100 5 5\n");
        assert_eq!((l.left_out.to_string().as_str(), l.limit), ("105-109", Some(Limit::Ids)));
        // One id only, as with no subordinate ids at all.
        let l = laid(1, "65535");
        assert_eq!((l.map.to_string().as_str(), l.limit), ("0 0 1\n", Some(Limit::Ids)));
    }

    #[test]
    fn earlier_sets_go_first() {
        let sets = ["300-303", "100-109"].map(|text| Ranges::parse(text).unwrap());
        let l = lay_out(&around(0, 10), &[&sets[0], &sets[1]]);
        assert_eq!((l.pinned.to_string().as_str(), l.left_out.to_string().as_str()), ("100,300-303", "101-109"));
    }

    #[test]
    fn the_kernels_limits_are_kept() {
        let every_other = (0..600).map(|i| (1_000_000_000 + i * 2).to_string()).collect::<Vec<_>>().join(",");
        let l = laid(5000, &every_other);
        assert!(l.map.fits_kernel());
        assert_eq!(l.limit, Some(Limit::Size));
        // 4095 bytes, of which a line takes 18: "1000000000 4774 1".
        assert_eq!(l.map.extents().len(), 228);
        assert_eq!(l.pinned.ids().count() + l.left_out.ids().count(), 600);
        let short = (0..600).map(|i| (3000 + i * 2).to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(laid(2000, &short).map.extents().len(), 340);
        let wanted = Ranges::parse(&short).unwrap();
        // As Podman maps it, with a line for each of three ranges.
        let cut = lay_out(&IdMap::parse("0 1000 1\n1 5000 999\n1000 9000 1000\n").unwrap(), &[&wanted]);
        assert_eq!(cut.map.extents().len(), 338);
        // newuidmap writes ids of ten digits: "3000 2937360000 1".
        let long = lay_out(&around(2_937_359_488, 2000), &[&wanted]);
        assert_eq!((long.map.extents().len(), long.limit), (227, Some(Limit::Size)));
    }

    proptest! {
        #[test]
        fn every_id_is_used_once(total in 1u32..3000, wanted in proptest::collection::vec(0u32..5000, 0..200)) {
            let ranges = Ranges::new(wanted.iter().map(|id| *id..=*id).collect());
            let l = lay_out(&around(0, total), &[&ranges]);
            let mut outside: Vec<u32> = l.map.extents().iter().flat_map(|e| e.outside..e.outside + e.count).collect();
            outside.sort_unstable();
            prop_assert_eq!(outside, (0..total).collect::<Vec<_>>());
            prop_assert!(l.map.fits_kernel() && l.pool >= total - total / 2);
            for id in wanted {
                let in_map = l.map.extents().iter().any(|e| id >= e.inside && id - e.inside < e.count);
                prop_assert_eq!(in_map, !l.left_out.contains(id));
            }
        }
    }
}
