//! The seccomp filter: which calls stop and ask.
//!
//! The call's number is looked at before its arguments, so that the kernel keeps all other calls in its table of those
//! that are always allowed. Then the ids, low words only, against the node's ids.

use super::calls::{Arch, Op};
use crate::map::pool::NodeIds;
use crate::map::ranges::Ranges;
use crate::sys::seccomp::{ALLOW, Insn, NOTIFY};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_IMMEDIATE: u16 = 0x00; // BPF_LD | BPF_IMM
const LOAD_SCRATCH: u16 = 0x60; // BPF_LD | BPF_MEM
const STORE: u16 = 0x02; // BPF_ST
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in struct seccomp_data.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// Ranges beyond this many are not told apart by the filter: their ids ask, and are let through then. The kernel takes
/// 4096 instructions.
const MAX_RANGES: usize = 100;
/// `(uid_t)-1`, "no change".
const NO_CHANGE: u32 = u32::MAX;

/// The ids of one call in scratch memory, as what they are to be checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Owner,
    Uids,
    Gids,
}

/// The filter for these node ids and callers.
pub fn program(uids: &NodeIds, gids: &NodeIds, archs: &[Arch]) -> Vec<Insn> {
    let mut p = Program::default();
    let (notify, owner, three_uids, three_gids) = (p.label(), p.label(), p.label(), p.label());
    let check = |c: Check| match c {
        Check::Owner => owner,
        Check::Uids => three_uids,
        Check::Gids => three_gids,
    };

    p.put(LOAD, ARCH);
    let starts: Vec<Label> = archs.iter().map(|_| p.label()).collect();
    for (arch, start) in archs.iter().zip(&starts) {
        p.jump_if(EQUAL, arch.audit, *start);
    }
    p.put(RETURN, ALLOW);
    for (arch, start) in archs.iter().zip(starts) {
        p.place(start);
        p.put(LOAD, NR);
        if arch.variant != 0 {
            p.put(AND, !arch.variant);
        }
        let targets: Vec<Label> = arch.calls.iter().map(|_| p.label()).collect();
        for (call, target) in arch.calls.iter().zip(&targets) {
            p.jump_if(EQUAL, call.nr, *target);
        }
        p.put(RETURN, ALLOW);
        for (call, target) in arch.calls.iter().zip(targets) {
            let what = match call.op {
                // An array cannot be read here, but none at all can be seen.
                Op::Groups => {
                    p.place(target);
                    p.put(LOAD, ARGS);
                    p.put_jump(EQUAL, 0, 1, 0);
                    p.put(RETURN, ALLOW);
                    p.jump(notify);
                    continue;
                }
                // Neither can a name. But an access control list with a user or group in it has five entries of eight
                // bytes or more, after four bytes, and a capability with an id has 24 bytes.
                Op::Xattr => {
                    p.place(target);
                    p.put(LOAD, ARGS + 8 * 3);
                    p.jump_if(EQUAL, 24, notify);
                    p.put_jump(AT_LEAST, 1, 0, 4 + 5 * 8);
                    p.put(RETURN, ALLOW);
                    p.put(AND, 7);
                    p.jump_if(EQUAL, 4, notify);
                    p.put(RETURN, ALLOW);
                    continue;
                }
                // Even the size is in memory.
                Op::Xattrat => {
                    p.place(target);
                    p.jump(notify);
                    continue;
                }
                Op::Uids(_) => Check::Uids,
                Op::Gids(_) => Check::Gids,
                _ => Check::Owner,
            };
            p.place(target);
            let (first, count) = call.op.ids();
            for slot in 0..3 {
                if slot < count {
                    p.put(LOAD, ARGS + 8 * (first + slot) as u32);
                    if call.narrow {
                        p.put(AND, 0xffff);
                        p.put_jump(EQUAL, 0, 1, 0xffff);
                        p.put(LOAD_IMMEDIATE, NO_CHANGE);
                    }
                } else {
                    p.put(LOAD_IMMEDIATE, NO_CHANGE);
                }
                p.put(STORE, slot as u32);
            }
            p.jump(check(what));
        }
    }
    for (label, kinds) in
        [(owner, &[uids, gids][..]), (three_uids, &[uids, uids, uids]), (three_gids, &[gids, gids, gids])]
    {
        p.place(label);
        for (slot, ids) in kinds.iter().enumerate() {
            p.check_slot(slot as u32, ids.ids(), notify);
        }
        p.put(RETURN, ALLOW);
    }
    p.place(notify);
    p.put(RETURN, NOTIFY);
    p.finish()
}

#[derive(Clone, Copy)]
struct Label(usize);

/// Instructions with jumps whose targets come later.
#[derive(Default)]
struct Program {
    insns: Vec<Insn>,
    labels: Vec<usize>,
    jumps: Vec<(usize, Label)>,
}

impl Program {
    fn label(&mut self) -> Label {
        self.labels.push(usize::MAX);
        Label(self.labels.len() - 1)
    }

    fn place(&mut self, label: Label) {
        self.labels[label.0] = self.insns.len();
    }

    fn put(&mut self, code: u16, k: u32) {
        self.put_jump(code, 0, 0, k);
    }

    fn put_jump(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.insns.push(Insn { code, jt, jf, k });
    }

    fn jump(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.put(JUMP, 0);
    }

    /// Conditional jumps reach 255 instructions only.
    fn jump_if(&mut self, test: u16, k: u32, to: Label) {
        self.put_jump(test, 0, 1, k);
        self.jump(to);
    }

    /// Goes on if the id in this slot of scratch memory is in the set or "no change", else to `otherwise`.
    fn check_slot(&mut self, slot: u32, ids: &Ranges, otherwise: Label) {
        let next = self.label();
        self.put(LOAD_SCRATCH, slot);
        self.jump_if(EQUAL, NO_CHANGE, next);
        for range in ids.iter().take(MAX_RANGES) {
            self.put_jump(AT_LEAST, 0, 2, *range.start());
            self.put_jump(GREATER, 1, 0, *range.end());
            self.jump(next);
        }
        self.jump(otherwise);
        self.place(next);
    }

    fn finish(mut self) -> Vec<Insn> {
        for (at, to) in self.jumps {
            self.insns[at].k = (self.labels[to.0] - at - 1) as u32;
        }
        self.insns
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::{AARCH64, ARM, I386, X86_64};
    use super::*;
    use crate::map::MAX_ID;
    use crate::map::assign::tests::{any_id, any_node};
    use crate::map::idmap::IdMap;
    use proptest::prelude::*;

    /// What the kernel's interpreter does with our instructions; also whether arguments were looked at.
    fn run(program: &[Insn], arch: u32, nr: u32, args: [u64; 6]) -> (u32, bool) {
        let (mut a, mut scratch, mut at, mut looked) = (0u32, [0u32; 16], 0usize, false);
        loop {
            let i = program[at];
            let mut jump = |yes: bool| at += usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => {
                    a = match i.k {
                        NR => nr,
                        ARCH => arch,
                        k => {
                            looked = true;
                            args[(k - ARGS) as usize / 8] as u32
                        }
                    }
                }
                LOAD_IMMEDIATE => a = i.k,
                LOAD_SCRATCH => a = scratch[i.k as usize],
                STORE => scratch[i.k as usize] = a,
                AND => a &= i.k,
                EQUAL => jump(a == i.k),
                GREATER => jump(a > i.k),
                AT_LEAST => jump(a >= i.k),
                JUMP => at += i.k as usize,
                RETURN => return (i.k, looked),
                code => panic!("{code:#x}"),
            }
            at += 1;
        }
    }

    const ALL: [Arch; 4] = [X86_64, I386, AARCH64, ARM];

    fn node(map: &str) -> NodeIds {
        NodeIds::new(&IdMap::parse(map).unwrap()).unwrap()
    }

    #[test]
    fn fits_the_kernel_with_the_most_ranges() {
        let lines: String = (0..340).map(|i| format!("{} {} 1\n", i * 2, i)).collect();
        let n = node(&lines);
        assert!(program(&n, &n, &ALL).len() <= 4096, "{}", program(&n, &n, &ALL).len());
    }

    #[test]
    fn other_calls_are_decided_by_number() {
        let n = node("0 1 2048");
        let p = program(&n, &n, &ALL);
        for arch in ALL {
            for nr in (0..500).filter(|nr| arch.call(*nr).is_none()) {
                assert_eq!(run(&p, arch.audit, nr, [99_999; 6]), (ALLOW, false), "{nr}");
            }
        }
        // An architecture that nobody knows.
        assert_eq!(run(&p, 0x1234, 105, [99_999; 6]), (ALLOW, false));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn asks_for_just_the_ids_that_the_node_lacks(
            uids in any_node(),
            gids in any_node(),
            ids in proptest::collection::vec(prop_oneof![any_id(), Just(u32::MAX), Just(0xffff), Just(0x1ffff)], 3),
            high in any::<u32>(),
            size in prop_oneof![0..100u32, any::<u32>()],
        ) {
            let p = program(&uids, &gids, &ALL);
            for arch in ALL {
                for call in arch.calls {
                    let (first, count) = call.op.ids();
                    let mut args = [u64::MAX; 6];
                    args[0] = u64::from(high) << 32 | u64::from(ids[0]);
                    let mut asks = match call.op {
                        Op::Groups => ids[0] != 0,
                        Op::Xattr => size == 24 || size >= 44 && size % 8 == 4,
                        op => op == Op::Xattrat,
                    };
                    args[3] = u64::from(size);
                    for i in 0..count {
                        args[first + i] = u64::from(high) << 32 | u64::from(ids[i]);
                        let id = match (call.narrow, ids[i] & 0xffff) {
                            (false, _) => ids[i],
                            (true, 0xffff) => u32::MAX,
                            (true, id) => id,
                        };
                        let set = match call.op {
                            Op::Uids(_) => &uids,
                            Op::Gids(_) => &gids,
                            _ => [&uids, &gids][i],
                        };
                        asks |= id <= MAX_ID && !set.contains(id);
                    }
                    let expected = if asks { NOTIFY } else { ALLOW };
                    prop_assert_eq!(run(&p, arch.audit, call.nr, args).0, expected, "{:?} {:?}", call, ids);
                    if arch.variant != 0 {
                        prop_assert_eq!(run(&p, arch.audit, call.nr | arch.variant, args).0, expected);
                    }
                }
            }
        }
    }
}
