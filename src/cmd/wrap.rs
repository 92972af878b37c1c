//! `show --wrap`: the table of the rule for 0-65535, block by block.

use super::json::{Value, object};
use super::text::{put, span};
use crate::map::idmap::IdMap;
use crate::map::pool::{NodeIds, rule};

/// A run of ids that rise together with their slots and the ids outside, or that all have one slot.
struct Block {
    first: u32,
    count: u32,
    slot: u32,
    outside: u32,
    /// One slot for all of them.
    flat: bool,
    /// The node maps these ids itself.
    native: bool,
}

impl Block {
    fn slots(&self) -> u32 {
        if self.flat { 1 } else { self.count }
    }
}

/// The blocks of 0-65535.
fn blocks(map: &IdMap, node: &NodeIds) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for id in 0..1 << 16 {
        let (slot, native) = (node.place(id).0, node.contains(id));
        let Some(outside) = map.to_outside(slot) else { continue };
        if let Some(b) = blocks.last_mut().filter(|b| b.native == native) {
            let rises = slot == b.slot + b.count && outside == b.outside + b.count;
            if (rises && !b.flat) || (slot == b.slot && (b.flat || b.count == 1)) {
                b.flat = !rises;
                b.count += 1;
                continue;
            }
        }
        blocks.push(Block { first: id, count: 1, slot, outside, flat: false, native });
    }
    blocks
}

pub fn text(map: &IdMap, node: &NodeIds, outside: &str) -> String {
    let mut text = format!("{:<12}  {:<11}  {outside}\n", "ids", "slots");
    for b in blocks(map, node) {
        let (ids, slots, outside) = (span(b.first, b.count), span(b.slot, b.slots()), span(b.outside, b.slots()));
        let (width, what) = if b.native { (21, "  native") } else { (0, "") };
        put(&mut text, format_args!("{ids:<12}  {slots:<11}  {outside:<width$}{what}\n"));
    }
    let (rule, collisions) = (rule(node.pool()), node.sharing_a_slot());
    put(&mut text, format_args!("rule: {rule}; native ids stay\n"));
    put(&mut text, format_args!("collisions: {collisions} of the 65536 ids share their slot with another\n"));
    text
}

/// The table as JSON: a list, and the number of collisions.
pub fn json(map: &IdMap, node: &NodeIds) -> Value {
    let block = |b: Block| {
        object! {
            "first": b.first, "count": b.count, "slot": b.slot, "slots": b.slots(),
            "outside": b.outside, "native": b.native,
        }
    };
    let blocks: Value = blocks(map, node).into_iter().map(block).collect();
    object! { "blocks": blocks, "collisions": node.sharing_a_slot() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::assign::tests::any_node;
    use crate::map::idmap::Extent;
    use proptest::prelude::*;

    fn table(map: &str) -> String {
        let map = IdMap::parse(map).unwrap();
        text(&map, &NodeIds::new(&map).unwrap(), "around the node")
    }

    #[test]
    fn blocks_by_the_rule() {
        assert_eq!(
            table("0 100000 30000\n65535 7 1"),
            "\
ids           slots        around the node
0-29999       0-29999      100000-129999          native
30000-57999   2000-29999   102000-129999
58000-65534   1000-8534    101000-108534
65535         65535        7                      native
rule: 1000 + id mod 29000; native ids stay
collisions: 64535 of the 65536 ids share their slot with another
"
        );
        let plain = table("0 2937359488 2048");
        assert!(
            plain.contains("\n2048-2095     2000-2047    2937361488-2937361535\n2096-3143     1000-2047  "),
            "{plain}"
        );
        assert!(plain.ends_with("collisions: 64536 of the 65536 ids share their slot with another\n"));
        assert!(table("0 4294901759 65536").contains("\n0-65535       0-65535      4294901759-4294967294  native\n"));
        assert!(table("0 5 1").contains("\n1-65535       0            5\nrule: 0; native ids stay\n"));
        assert!(table("0 5 2").contains("\n2-65535       1            6\n"));
    }

    /// Reads `7`, or `7-9`, back.
    fn read_span(text: &str) -> (u32, u32) {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        (first.parse().unwrap(), last.parse().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

        #[test]
        fn the_printed_table_is_the_rule(node in any_node()) {
            // Ids of the node outside: falling, so that each range has its own block.
            let outside = |first: u32| 4_000_000_000 - first * 2;
            let map = IdMap::from_disjoint(node.ids().iter().map(|r| {
                Extent { inside: *r.start(), outside: outside(*r.start()), count: r.end() - r.start() + 1 }
            }).collect());
            let mut next = 0;
            for line in text(&map, &node, "host").lines().skip(1).take_while(|l| !l.starts_with("rule")) {
                prop_assert!(line.len() <= 80);
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (ids, slots, hosts) = (read_span(fields[0]), read_span(fields[1]), read_span(fields[2]));
                prop_assert_eq!(ids.0, next);
                for id in ids.0..=ids.1 {
                    let step = if slots.0 == slots.1 { 0 } else { id - ids.0 };
                    prop_assert_eq!(node.place(id).0, slots.0 + step);
                    prop_assert_eq!(map.to_outside(slots.0 + step), Some(hosts.0 + step));
                    prop_assert_eq!(line.ends_with("native"), node.contains(id));
                }
                next = ids.1 + 1;
            }
            prop_assert_eq!(next, 1 << 16);
        }
    }
}
