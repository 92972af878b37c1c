//! From the ids that a container wants to a map that the kernel takes.
//!
//! The map is the identity on the node's ids, but each wanted id that the node lacks takes the slot where the rule
//! places it, and displaces that slot's own id. Slots below the rule's base, which are system users' and groups', are only
//! given away when no other is left, and slot 0 never: nobody but root becomes root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::MAX_ID;
use super::idmap::{Extent, IdMap};
use super::kind::Kind;
use super::pool::{NodeId, NodeIds};
use super::ranges::{MAX_LISTED, Ranges};

/// What one container wants of one kind of id (user or group), most important first.
#[derive(Clone, Copy, Debug)]
pub struct Wants<'a> {
    /// The process's own uid, or gid. Must be had.
    pub primary: Option<u32>,
    /// Its additional gids, and ids that its mounts name. Must be had; their order does not matter.
    pub others: &'a [u32],
    /// Sets of optional ids; earlier sets go before later ones.
    pub optional: &'a [&'a Ranges],
}

/// A map, and what had to give way for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Container ids to node ids.
    pub map: IdMap,
    /// Wanted ids that the node lacks and their slots, by id.
    pub placed: BTreeMap<u32, NodeId>,
    /// Wanted ids that did not get the slot of the rule, in order of importance.
    pub collisions: Vec<Collision>,
}

/// A wanted id whose slot was held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collision {
    /// The wanted id.
    pub id: u32,
    /// Where the rule places it.
    pub slot: NodeId,
    /// The id that the container names this slot by. None: the slot was free, but the map had no line left.
    pub held_by: Option<u32>,
    /// The slot it got instead; None: it is left out of the map.
    pub moved_to: Option<NodeId>,
}

impl Collision {
    /// What became of the id, for the log and for errors.
    pub fn describe(&self, kind: Kind) -> String {
        let Collision { id, slot, held_by, moved_to } = self;
        let why = match held_by {
            Some(held) => format!("{kind} {id} belongs on slot {slot}, which {kind} {held} holds"),
            None => format!("{kind} {id} has no line left in the map"),
        };
        match moved_to {
            Some(slot) => format!("{why}; it is on slot {slot} instead"),
            None => format!("{why}; it is left out"),
        }
    }
}

/// Why there is no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignError {
    /// 2^32-1 is no id.
    NotAnId(u32),
    /// Every slot below the pool's end is held by an id that must stay.
    NoSlotLeft { id: u32, pool: u32 },
    /// More ids than setgroups(2) takes (NGROUPS_MAX).
    TooMany(usize),
    /// Even with the required ids alone, the map is over 340 lines or 4095 bytes.
    TooLarge,
}

impl AssignError {
    /// Whether another node, or another container's ids, would have the room.
    pub fn is_want_of_room(self) -> bool {
        matches!(self, AssignError::NoSlotLeft { .. } | AssignError::TooLarge)
    }
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssignError::NotAnId(id) => write!(f, "{id} is not an id (0-{MAX_ID})"),
            AssignError::NoSlotLeft { id, pool } => {
                write!(f, "no slot is left for id {id}: the node's pool has {pool} ids, and 0 is root's")
            }
            AssignError::TooMany(n) => write!(f, "{n} additional ids are more than the kernel's 65536"),
            AssignError::TooLarge => f.write_str("the id map would be over the kernel's 340 lines or 4095 bytes"),
        }
    }
}

/// Makes the map. The same input gives the same map, whatever the order of `others` and of each optional set.
pub fn assign(node: &NodeIds, wants: &Wants) -> Result<Assignment, AssignError> {
    let own = own_ids(wants)?;
    let mut slots = Slots { node, owner: BTreeMap::new(), own: own.iter().copied().collect(), next: BTreeMap::new() };
    let mut collisions = Vec::new();

    // Every required id first tries its own slot, so that a moved one never takes a slot that the rule gives another.
    let mut moving = Vec::new();
    for &id in own.iter().filter(|id| !node.contains(**id)) {
        if !slots.take(id, node.place(id)) {
            moving.push(id);
        }
    }
    for id in moving {
        let slot = node.place(id);
        let held_by = Some(slots.holder(slot));
        let free = slots.free_below(slot).ok_or(AssignError::NoSlotLeft { id, pool: node.pool() })?;
        slots.owner.insert(free, id);
        collisions.push(Collision { id, slot, held_by, moved_to: Some(free) });
    }
    let required = slots.owner.clone();

    let mut optional = Vec::new();
    let mut seen: BTreeSet<u32> = slots.own.clone();
    for id in wants.optional.iter().flat_map(|set| set.ids()) {
        if node.contains(id) || !seen.insert(id) {
            continue;
        }
        let slot = node.place(id);
        if slots.take(id, slot) {
            optional.push((slot, id));
        } else {
            collisions.push(Collision { id, slot, held_by: Some(slots.holder(slot)), moved_to: None });
        }
    }

    let kept = longest_that_fits(node, &required, &optional).ok_or(AssignError::TooLarge)?;
    let without_line = |&(slot, id)| Collision { id, slot, held_by: None, moved_to: None };
    collisions.extend(optional[kept..].iter().map(without_line));
    let owner = with(&required, &optional[..kept]);
    let placed = owner.iter().map(|(slot, id)| (*id, *slot)).collect();
    Ok(Assignment { map: build(node, &owner), placed, collisions })
}

/// The required ids: the primary one, then the others ascending, each once.
fn own_ids(wants: &Wants) -> Result<Vec<u32>, AssignError> {
    if wants.others.len() > MAX_LISTED as usize {
        return Err(AssignError::TooMany(wants.others.len()));
    }
    let mut rest = wants.others.to_vec();
    rest.sort_unstable();
    rest.dedup();
    rest.retain(|id| Some(*id) != wants.primary);
    let own: Vec<u32> = wants.primary.into_iter().chain(rest).collect();
    match own.iter().find(|id| **id > MAX_ID) {
        Some(id) => Err(AssignError::NotAnId(*id)),
        None => Ok(own),
    }
}

/// Which wanted id holds which slot.
struct Slots<'a> {
    node: &'a NodeIds,
    owner: BTreeMap<NodeId, u32>,
    /// The container's own ids; those that the node knows are never displaced.
    own: BTreeSet<u32>,
    /// Where a search that passed a slot went on to find a free one. Slots are never freed again, so the next search goes
    /// there at once: many ids on few slots cost little more than as many on different ones.
    next: BTreeMap<u32, u32>,
}

impl Slots<'_> {
    fn is_free(&self, slot: NodeId) -> bool {
        slot.0 != 0 && !self.owner.contains_key(&slot) && !self.own.contains(&slot.0)
    }

    fn take(&mut self, id: u32, slot: NodeId) -> bool {
        let free = self.is_free(slot);
        if free {
            self.owner.insert(slot, id);
        }
        free
    }

    /// The id that the container names a slot by.
    fn holder(&self, slot: NodeId) -> u32 {
        self.owner.get(&slot).copied().unwrap_or(slot.0)
    }

    /// The next free slot below, going on from the pool's end after the rule's base, and below that when nothing else is
    /// left.
    fn free_below(&mut self, slot: NodeId) -> Option<NodeId> {
        let (base, end) = (self.node.base().max(1), self.node.pool());
        [(base, slot.0), (base, end), (1, base)].into_iter().find_map(|(first, end)| {
            let mut passed = Vec::new();
            let mut at = end.saturating_sub(1);
            while at >= first && !self.is_free(NodeId(at)) {
                passed.push(at);
                at = self.next.get(&at).copied().unwrap_or(at - 1);
            }
            self.next.extend(passed.into_iter().map(|slot| (slot, at)));
            (at >= first).then_some(NodeId(at))
        })
    }
}

fn with(required: &BTreeMap<NodeId, u32>, optional: &[(NodeId, u32)]) -> BTreeMap<NodeId, u32> {
    let mut owner = required.clone();
    owner.extend(optional.iter().copied());
    owner
}

/// How many of the optional ids, in their order, the kernel's limits leave room for. None: not even the required ids.
fn longest_that_fits(node: &NodeIds, required: &BTreeMap<NodeId, u32>, optional: &[(NodeId, u32)]) -> Option<usize> {
    let fits = |n: usize| build(node, &with(required, &optional[..n])).fits_kernel();
    if fits(optional.len()) {
        return Some(optional.len());
    }
    if !fits(0) {
        return None;
    }
    let (mut good, mut bad) = (0, optional.len());
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

/// The identity on the node's ids without the given slots, and the slots under their new names.
fn build(node: &NodeIds, owner: &BTreeMap<NodeId, u32>) -> IdMap {
    let mut extents: Vec<Extent> =
        owner.iter().map(|(slot, id)| Extent { inside: *id, outside: slot.0, count: 1 }).collect();
    for range in node.lines() {
        let mut next = *range.start();
        for (slot, _) in owner.range(NodeId(*range.start())..=NodeId(*range.end())) {
            if slot.0 > next {
                extents.push(Extent { inside: next, outside: next, count: slot.0 - next });
            }
            next = slot.0 + 1;
        }
        if next <= *range.end() {
            extents.push(Extent { inside: next, outside: next, count: *range.end() - next + 1 });
        }
    }
    IdMap::joined(extents, &|outside| node.starts_line(outside))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::RangeInclusive;

    fn node(map: &str) -> NodeIds {
        NodeIds::new(&IdMap::parse(map).unwrap()).unwrap()
    }

    fn text(node: &NodeIds, primary: u32, others: &[u32], optional: &str) -> String {
        let optional = Ranges::parse(optional).unwrap();
        let wants = Wants { primary: Some(primary), others, optional: &[&optional] };
        assign(node, &wants).unwrap().map.to_string()
    }

    fn collisions(node: &NodeIds, primary: u32, others: &[u32], optional: &str) -> Vec<Collision> {
        let optional = Ranges::parse(optional).unwrap();
        let wants = Wants { primary: Some(primary), others, optional: &[&optional] };
        assign(node, &wants).unwrap().collisions
    }

    #[test]
    fn a_wanted_id_displaces_its_slot() {
        let n = node("0 2937359488 2048");
        assert_eq!(text(&n, 10001, &[], ""), "0 0 1569\n1570 1570 478\n10001 1569 1\n");
        assert_eq!(text(&n, 1000, &[], ""), "0 0 2048\n");
        let both = "0 0 1556\n1560 1560 9\n1570 1570 478\n10001 1569 1\n65532 1556 4\n";
        assert_eq!(text(&n, 10001, &[], "65532-65535"), both);
        // Natively mapped ids stay, and are no claim.
        let careful = node("0 2937359488 2044\n65532 2937361532 4");
        assert_eq!(text(&careful, 65535, &[], "65532-65535"), "0 0 2044\n65532 65532 4\n");
    }

    #[test]
    fn required_ids_move_below_optional_ones_are_left_out() {
        let n = node("0 1 100");
        // 150 and 250 both belong on 50; 350 is optional.
        assert_eq!(
            collisions(&n, 150, &[250], "350"),
            [
                Collision { id: 250, slot: NodeId(50), held_by: Some(150), moved_to: Some(NodeId(99)) },
                Collision { id: 350, slot: NodeId(50), held_by: Some(150), moved_to: None },
            ]
        );
        // 149 keeps its slot although 250, which is smaller in no way, would move onto it.
        assert_eq!(
            collisions(&n, 150, &[250, 149], ""),
            [Collision { id: 250, slot: NodeId(50), held_by: Some(150), moved_to: Some(NodeId(98)) }]
        );
    }

    #[test]
    fn own_ids_are_never_displaced() {
        let n = node("0 1 100");
        // The process's own 50, which the node knows, keeps its slot.
        assert_eq!(
            collisions(&n, 50, &[150], ""),
            [Collision { id: 150, slot: NodeId(50), held_by: Some(50), moved_to: Some(NodeId(99)) }]
        );
        assert_eq!(
            collisions(&n, 50, &[], "150"),
            [Collision { id: 150, slot: NodeId(50), held_by: Some(50), moved_to: None }]
        );
    }

    #[test]
    fn the_search_goes_round_but_never_to_root() {
        let n = node("0 1 3");
        // Slots 1 and 2; 4, 6 and 10 belong on 1.
        let a = assign(&n, &Wants { primary: Some(4), others: &[6], optional: &[] }).unwrap();
        assert_eq!(a.map.to_string(), "0 0 1\n4 1 1\n6 2 1\n");
        let full = Wants { primary: Some(4), others: &[6, 10], optional: &[] };
        let error = assign(&n, &full).unwrap_err();
        assert_eq!(error.to_string(), "no slot is left for id 10: the node's pool has 3 ids, and 0 is root's");
        let one = assign(&node("0 1000 1"), &Wants { primary: Some(5), others: &[], optional: &[] });
        assert_eq!(one, Err(AssignError::NoSlotLeft { id: 5, pool: 1 }));
    }

    #[test]
    fn system_ids_are_given_away_last() {
        // Slots 3 to 5 are those of the rule, and 6, 9, 12 and 15 belong on 3.
        let n = node("0 1 6");
        let a = assign(&n, &Wants { primary: Some(6), others: &[9, 12], optional: &[] }).unwrap();
        assert_eq!(a.map.to_string(), "0 0 3\n6 3 1\n9 5 1\n12 4 1\n");
        let a = assign(&n, &Wants { primary: Some(6), others: &[9, 12, 15], optional: &[] }).unwrap();
        assert_eq!(a.map.to_string(), "0 0 2\n6 3 1\n9 5 1\n12 4 1\n15 2 1\n");
        // The caller's own id stays even there.
        let a = assign(&n, &Wants { primary: Some(6), others: &[2, 9, 12, 15], optional: &[] }).unwrap();
        assert_eq!(a.map.to_string(), "0 0 1\n2 2 1\n6 3 1\n9 5 1\n12 4 1\n15 1 1\n");
    }

    #[test]
    fn many_ids_on_one_slot_are_no_long_search() {
        // 40000 ids that all belong on slot 1001 of a pool as large: a search from there each time would take 8*10^8 steps.
        let n = node("0 1 40000");
        let many: Vec<u32> = (2..=40_001).map(|i| i * 39_000 + 1).collect();
        let wants = |others| Wants { primary: None, others, optional: &[] };
        assert_eq!(assign(&n, &wants(&many[..39_999])), Err(AssignError::TooLarge));
        assert!(matches!(assign(&n, &wants(&many)), Err(AssignError::NoSlotLeft { .. })));
        let more = vec![7; 65_537];
        assert_eq!(assign(&n, &wants(&more)), Err(AssignError::TooMany(65_537)));
    }

    #[test]
    fn minus_one_is_refused() {
        let wants = Wants { primary: Some(u32::MAX), others: &[], optional: &[] };
        let error = assign(&node("0 1 10"), &wants).unwrap_err();
        assert_eq!(error.to_string(), "4294967295 is not an id (0-4294967294)");
    }

    #[test]
    fn optional_ids_give_way_to_the_kernels_limits() {
        let n = node("0 1 2048");
        // Every other id: each costs two lines, so about 170 fit.
        let list: Vec<String> = (0..500).map(|i| (1_000_000 + i * 2).to_string()).collect();
        let optional = Ranges::parse(&list.join(",")).unwrap();
        let wants = Wants { primary: Some(10001), others: &[], optional: &[&optional] };
        let a = assign(&n, &wants).unwrap();
        assert!(a.map.fits_kernel());
        assert_eq!(a.placed.get(&10001), Some(&NodeId(1569)));
        assert!(a.placed.len() > 100 && a.placed.len() < 200, "{}", a.placed.len());
        assert_eq!(a.placed.len() + a.collisions.len(), 501);
        // The first of them are the ones that stay.
        assert!(a.placed.contains_key(&1_000_000) && a.collisions.iter().all(|c| c.held_by.is_none()));

        let many: Vec<u32> = (0..500).map(|i| 1_000_000 + i * 2).collect();
        let required = Wants { primary: Some(0), others: &many, optional: &[] };
        assert_eq!(assign(&n, &required), Err(AssignError::TooLarge));
    }

    /// Random nodes: a pool, maybe native islands, maybe a few ids only.
    pub fn any_node() -> impl Strategy<Value = NodeIds> {
        let pool = prop_oneof![1u32..6, 1u32..3000];
        let islands = proptest::collection::vec((0u32..70_000, 1u32..20), 0..4);
        (pool, islands).prop_map(|(pool, islands)| {
            let mut ids = vec![0..=pool - 1];
            ids.extend(islands.into_iter().map(|(gap, n)| pool + gap..=pool + gap + n - 1));
            // Root first and alone, as everywhere where a user's own id comes before the subordinate ones.
            let cut = |r: &RangeInclusive<u32>| match (*r.start(), *r.end()) {
                (0, end) if end > 0 => vec![0..=0, 1..=end],
                (start, end) => vec![start..=end],
            };
            let (ids, mut outside) = (Ranges::new(ids), 100_000);
            let lines = ids.iter().flat_map(cut).map(|r| {
                let count = r.end() - r.start() + 1;
                outside += count;
                format!("{} {} {count}\n", r.start(), outside - count)
            });
            let text: String = lines.collect();
            NodeIds::new(&IdMap::parse(&text).unwrap()).unwrap()
        })
    }

    pub fn any_id() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..5000, 0u32..70_000, 0..=MAX_ID, MAX_ID - 5000..=MAX_ID]
    }

    pub fn any_set() -> impl Strategy<Value = Ranges> {
        proptest::collection::vec((any_id(), 0u32..50), 0..8).prop_map(|pairs| {
            Ranges::new(pairs.into_iter().map(|(a, n)| a..=a.saturating_add(n).min(MAX_ID)).collect())
        })
    }

    /// All that must hold of an assignment, whatever the node and the wants.
    pub fn check(node: &NodeIds, wants: &Wants, a: &Assignment) {
        let text = a.map.to_string();
        // Parsing refuses overlaps on either side, so this says one-to-one.
        assert_eq!(IdMap::parse(&text).unwrap(), a.map);
        assert!(a.map.fits_kernel(), "{text}");
        let inside = |id: u32| {
            let mut all = a.map.extents().iter();
            all.find(|e| id >= e.inside && id - e.inside < e.count).map(|e| e.outside + (id - e.inside))
        };
        for e in a.map.extents() {
            assert!((e.outside..=e.outside + (e.count - 1)).all(|id| node.contains(id)), "{text}");
        }
        assert_eq!(inside(0), Some(0));
        let moved = |id: u32| a.collisions.iter().find(|c| c.id == id);
        for id in wants.primary.iter().chain(wants.others) {
            let expected = moved(*id).map_or(node.place(*id), |c| c.moved_to.expect("required ids stay"));
            assert_eq!(inside(*id), Some(expected.0), "required {id} in\n{text}");
            assert!(*id == 0 || inside(*id) != Some(0));
        }
        for id in wants.optional.iter().flat_map(|s| s.ids()).filter(|id| !node.contains(*id)) {
            let expected = moved(id).map_or(Some(node.place(id)), |c| c.moved_to);
            assert_eq!(inside(id), expected.map(|s| s.0), "optional {id} in\n{text}");
        }
        // Whatever else is there is the identity.
        for e in a.map.extents().iter().filter(|e| e.inside != e.outside) {
            assert!((e.inside..=e.inside + (e.count - 1)).all(|id| a.placed.contains_key(&id)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_wants_give_a_right_map(
            node in any_node(),
            primary in proptest::option::of(any_id()),
            additional in proptest::collection::vec(any_id(), 0..12),
            first in any_set(),
            second in any_set(),
        ) {
            let wants = Wants { primary, others: &additional, optional: &[&first, &second] };
            let result = assign(&node, &wants);
            let mut reversed = additional.clone();
            reversed.reverse();
            prop_assert_eq!(&result, &assign(&node, &Wants { others: &reversed, ..wants }));
            match result {
                Ok(a) => check(&node, &wants, &a),
                // Only a pool smaller than the required ids has no slot for one.
                Err(AssignError::NoSlotLeft { pool, .. }) => prop_assert!(pool as usize <= additional.len() + 1),
                Err(e) => prop_assert!(false, "{e}"),
            }
        }
    }
}
