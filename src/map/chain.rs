//! Maps one inside the other: what an id of the innermost namespace is at each level, and where it ceases to exist.

use super::idmap::{Extent, IdMap};

/// The kernel nests no deeper (`user_namespaces(7)`).
pub const MAX_LEVELS: u32 = 32;

/// A run of ids of the innermost namespace that has the same fate at every level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Its first id: as the innermost namespace calls it, as the one around that does, and so on. One number more than
    /// there are maps, unless it ceases to exist: then the last number is an id that the next namespace does not have.
    pub firsts: Vec<u32>,
    /// How many ids, at least 1.
    pub count: u32,
}

/// The ids of the innermost namespace, in its order. `maps` are outermost first, as one enters the namespaces.
pub fn bands(maps: &[IdMap]) -> Vec<Band> {
    let Some((innermost, around)) = maps.split_last() else { return Vec::new() };
    let whole = |e: &Extent| Band { firsts: vec![e.inside, e.outside], count: e.count };
    let mut bands: Vec<Band> = innermost.extents().iter().map(whole).collect();
    for (out, map) in around.iter().rev().enumerate() {
        bands = bands.into_iter().flat_map(|band| split(band, out + 1, map)).collect();
    }
    bands
}

/// The map of the innermost namespace to the ids around the outermost: ids that exist at every level.
pub fn compose(maps: &[IdMap]) -> IdMap {
    let whole = bands(maps).into_iter().filter(|b| b.firsts.len() == maps.len() + 1);
    let extent = |b: Band| Extent { inside: b.firsts[0], outside: b.firsts[maps.len()], count: b.count };
    IdMap::from_disjoint(whole.map(extent).collect())
}

/// Lines of which all ids exist one level further out, but in several lines there: the kernel takes none such
/// (map_id_range_down of its user_namespace.c). With the level that has them, counted from the host, which is 0.
pub fn crossing(maps: &[IdMap]) -> Vec<(usize, Extent)> {
    let mut found = Vec::new();
    for (n, pair) in maps.windows(2).enumerate() {
        let [outer, inner] = pair else { continue };
        for e in inner.extents() {
            let parts = split(Band { firsts: vec![e.inside, e.outside], count: e.count }, 1, outer);
            if parts.len() > 1 && parts.iter().all(|part| part.firsts.len() == 3) {
                found.push((n + 2, *e));
            }
        }
    }
    found
}

/// Takes a band one level further out, by the map of the namespace `out` levels around the innermost.
fn split(band: Band, out: usize, map: &IdMap) -> Vec<Band> {
    let Some(&first) = band.firsts.get(out) else { return vec![band] };
    let mut parts = Vec::new();
    let mut done = 0;
    while done < band.count {
        let (id, left) = (first + done, band.count - done);
        let inside = map.extents().iter().find(|e| id >= e.inside && id - e.inside < e.count);
        // An id that is not there is followed by others as far as the next extent.
        let end = match inside {
            Some(e) => e.inside + e.count,
            None => map.extents().iter().find(|e| e.inside > id).map_or(u32::MAX, |e| e.inside),
        };
        let count = left.min(end - id);
        let mut firsts: Vec<u32> = band.firsts.iter().map(|f| f + done).collect();
        firsts.extend(inside.map(|e| e.outside + (id - e.inside)));
        parts.push(Band { firsts, count });
        done += count;
    }
    parts
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::map::MAX_ID;
    use proptest::prelude::*;

    fn maps(texts: &[&str]) -> Vec<IdMap> {
        texts.iter().map(|t| IdMap::parse(t).unwrap()).collect()
    }

    /// The inverse, one id at a time.
    fn inside(map: &IdMap, id: u32) -> Option<u32> {
        let e = map.extents().iter().find(|e| id >= e.outside && id - e.outside < e.count)?;
        Some(e.inside + (id - e.outside))
    }

    #[test]
    fn three_levels() {
        let chain = maps(&["0 500000 196608", "0 65536 131072", "0 65536 65536"]);
        assert_eq!(bands(&chain), [Band { firsts: vec![0, 65536, 131072, 631072], count: 65536 }]);
        assert_eq!(compose(&chain).to_string(), "0 631072 65536\n");
        assert_eq!(bands(&[]), []);
    }

    #[test]
    fn one_id_too_few_is_found_at_its_level() {
        let chain = maps(&["0 500000 196608", "0 65536 131071", "0 65536 65536"]);
        let lost = Band { firsts: vec![65535, 131071], count: 1 };
        assert_eq!(bands(&chain), [Band { firsts: vec![0, 65536, 131072, 631072], count: 65535 }, lost]);
        // The same at the outermost level: the number is one that level 2 has, but level 1 has not.
        let chain = maps(&["0 500000 196607", "0 65536 131072", "0 65536 65536"]);
        assert_eq!(bands(&chain)[1], Band { firsts: vec![65535, 131071, 196607], count: 1 });
    }

    #[test]
    fn lines_across_lines() {
        // As Podman and RootlessKit map a node, and what a container's map must not be there.
        let node = "0 1000 1\n1 100000 2048";
        let line = |inside, outside, count| Extent { inside, outside, count };
        assert_eq!(crossing(&maps(&[node, "0 0 2049"])), [(2, line(0, 0, 2049))]);
        assert_eq!(crossing(&maps(&["0 0 10", node, "0 0 1\n1 1 2048", "5 0 2"])), [(4, line(5, 0, 2))]);
        assert_eq!(crossing(&maps(&[node, "0 0 1\n1 1 2048"])), []);
        // Ids that do not exist are another matter.
        assert_eq!(crossing(&maps(&[node, "0 1 2049", "0 7 1"])), []);
        assert_eq!(crossing(&[]), []);
    }

    #[test]
    fn gaps_and_ends() {
        // Ids before, between and after the outer extents.
        let chain = maps(&["10 100 5\n20 300 5", "0 8 4294967287"]);
        let expected = [(vec![0, 8], 2), (vec![2, 10, 100], 5), (vec![7, 15], 5), (vec![12, 20, 300], 5)];
        let end = Band { firsts: vec![17, 25], count: 4294967270 };
        let expected = expected.into_iter().map(|(firsts, count)| Band { firsts, count });
        assert_eq!(bands(&chain), expected.chain([end]).collect::<Vec<_>>());
        assert_eq!(compose(&chain).to_string(), "2 100 5\n12 300 5\n");
    }

    /// Random maps: extents in any order outside, often side by side.
    pub fn any_map() -> impl Strategy<Value = IdMap> {
        let extent = (0u32..40, 1u32..30, any::<prop::sample::Index>());
        proptest::collection::vec(extent, 0..6).prop_map(|parts| {
            let (mut inside, mut outside, mut extents) = (0, 0, Vec::new());
            let mut order: Vec<usize> = (0..parts.len()).collect();
            order.sort_by_key(|i| parts[*i].2.index(1000));
            for i in order {
                let (gap, count, _) = parts[i];
                extents.push(Extent { inside: 0, outside: outside + gap / 2, count });
                outside += gap / 2 + count;
            }
            extents.sort_by_key(|e| e.outside % 7);
            for (e, (gap, ..)) in extents.iter_mut().zip(&parts) {
                e.inside = inside + gap;
                inside += gap + e.count;
            }
            IdMap::from_disjoint(extents)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn composing_is_looking_up_level_by_level(chain in proptest::collection::vec(any_map(), 1..5)) {
            let whole = compose(&chain);
            // Parsing refuses what is not one-to-one.
            prop_assert_eq!(&IdMap::parse(&whole.to_string()).unwrap(), &whole);
            let bands = bands(&chain);
            for id in (0..400).chain([MAX_ID]) {
                // Each level by itself, until one lacks the id.
                let mut slow = vec![id];
                for map in chain.iter().rev() {
                    match map.to_outside(slow[slow.len() - 1]) {
                        Some(next) => slow.push(next),
                        None => break,
                    }
                }
                let here = bands.iter().find(|b| id >= b.firsts[0] && id - b.firsts[0] < b.count);
                let fast = here.map(|b| b.firsts.iter().map(|f| f + (id - b.firsts[0])).collect::<Vec<_>>());
                prop_assert_eq!(fast.unwrap_or(vec![id]), slow.clone());
                let host = (slow.len() == chain.len() + 1).then(|| slow[chain.len()]);
                prop_assert_eq!(whole.to_outside(id), host);
                // And back: the id itself, or unmapped; never another one.
                if let Some(host) = host {
                    prop_assert_eq!(inside(&whole, host), Some(id));
                }
                prop_assert!(inside(&whole, id).is_none_or(|name| whole.to_outside(name) == Some(id)));
            }
        }

        #[test]
        fn composing_is_associative(a in any_map(), b in any_map(), c in any_map()) {
            let left = compose(&[compose(&[a.clone(), b.clone()]), c.clone()]);
            let right = compose(&[a.clone(), compose(&[b.clone(), c.clone()])]);
            prop_assert_eq!(&left, &right);
            prop_assert_eq!(&compose(&[a, b, c]), &left);
        }
    }
}
