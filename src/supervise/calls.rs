//! The system calls that take user or group ids, by architecture and number.

/// How a call names what it changes, and where its ids are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// chown: path, uid, gid.
    Chown,
    /// lchown: path, uid, gid.
    Lchown,
    /// fchown: descriptor, uid, gid.
    Fchown,
    /// fchownat: directory, path, uid, gid, flags.
    Fchownat,
    /// The first so many arguments are user ids.
    Uids(usize),
    /// The first so many arguments are group ids.
    Gids(usize),
    /// setgroups: count, array.
    Groups,
    /// setxattr, lsetxattr, fsetxattr: file, name, value, size, flags. Access lists and capabilities have ids in them.
    Xattr,
    /// setxattrat: directory, path, flags, name, `struct xattr_args`, its size.
    Xattrat,
}

/// One call of one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub nr: u32,
    pub op: Op,
    /// Ids of 16 bits, of which 0xffff is "no change".
    pub narrow: bool,
}

impl Op {
    /// Whether its ids are in the caller's memory.
    pub fn has_array(self) -> bool {
        matches!(self, Op::Groups | Op::Xattr | Op::Xattrat)
    }

    /// Whether it changes the owner of a file.
    pub fn is_chown(self) -> bool {
        matches!(self, Op::Chown | Op::Lchown | Op::Fchown | Op::Fchownat)
    }

    /// Whether it changes the ids of its caller, which takes no time; a file can take long.
    pub fn is_set_id(self) -> bool {
        matches!(self, Op::Uids(_) | Op::Gids(_) | Op::Groups)
    }

    /// The position of the first id among the arguments, and how many ids there are.
    pub fn ids(self) -> (usize, usize) {
        match self {
            Op::Chown | Op::Lchown | Op::Fchown => (1, 2),
            Op::Fchownat => (2, 2),
            Op::Uids(n) | Op::Gids(n) => (0, n),
            Op::Groups | Op::Xattr | Op::Xattrat => (0, 0),
        }
    }
}

/// An architecture as seccomp names it (`linux/audit.h`), and its calls.
#[derive(Clone, Copy, Debug)]
pub struct Arch {
    /// AUDIT_ARCH_*.
    pub audit: u32,
    pub calls: &'static [Call],
    /// A number has this bit where the same call is made in another way (x32); else 0.
    pub variant: u32,
}

impl Arch {
    pub fn call(&self, nr: u32) -> Option<Call> {
        self.calls.iter().find(|c| c.nr == nr & !self.variant).copied()
    }
}

const fn wide(nr: u32, op: Op) -> Call {
    Call { nr, op, narrow: false }
}

const fn narrow(nr: u32, op: Op) -> Call {
    Call { nr, op, narrow: true }
}

/// The calls that 32-bit x86 and ARM share, but for fchownat's number.
macro_rules! old_calls {
    ($fchownat:expr) => {
        &[
            narrow(16, Op::Lchown),
            narrow(23, Op::Uids(1)),
            narrow(46, Op::Gids(1)),
            narrow(70, Op::Uids(2)),
            narrow(71, Op::Gids(2)),
            narrow(81, Op::Groups),
            narrow(95, Op::Fchown),
            narrow(138, Op::Uids(1)),
            narrow(139, Op::Gids(1)),
            narrow(164, Op::Uids(3)),
            narrow(170, Op::Gids(3)),
            narrow(182, Op::Chown),
            wide(198, Op::Lchown),
            wide(203, Op::Uids(2)),
            wide(204, Op::Gids(2)),
            wide(206, Op::Groups),
            wide(207, Op::Fchown),
            wide(208, Op::Uids(3)),
            wide(210, Op::Gids(3)),
            wide(212, Op::Chown),
            wide(213, Op::Uids(1)),
            wide(214, Op::Gids(1)),
            wide(215, Op::Uids(1)),
            wide(216, Op::Gids(1)),
            wide(226, Op::Xattr),
            wide(227, Op::Xattr),
            wide(228, Op::Xattr),
            wide(463, Op::Xattrat),
            wide($fchownat, Op::Fchownat),
        ]
    };
}

/// 64-bit x86, x32 included.
pub const X86_64: Arch = Arch {
    audit: 0xc000_003e,
    calls: &[
        wide(92, Op::Chown),
        wide(93, Op::Fchown),
        wide(94, Op::Lchown),
        wide(105, Op::Uids(1)),
        wide(106, Op::Gids(1)),
        wide(113, Op::Uids(2)),
        wide(114, Op::Gids(2)),
        wide(116, Op::Groups),
        wide(117, Op::Uids(3)),
        wide(119, Op::Gids(3)),
        wide(122, Op::Uids(1)),
        wide(123, Op::Gids(1)),
        wide(188, Op::Xattr),
        wide(189, Op::Xattr),
        wide(190, Op::Xattr),
        wide(260, Op::Fchownat),
        wide(463, Op::Xattrat),
    ],
    variant: 0x4000_0000,
};

/// 32-bit x86.
pub const I386: Arch = Arch { audit: 0x4000_0003, calls: old_calls!(298), variant: 0 };

/// 64-bit ARM.
pub const AARCH64: Arch = Arch {
    audit: 0xc000_00b7,
    calls: &[
        wide(5, Op::Xattr),
        wide(6, Op::Xattr),
        wide(7, Op::Xattr),
        wide(54, Op::Fchownat),
        wide(55, Op::Fchown),
        wide(143, Op::Gids(2)),
        wide(144, Op::Gids(1)),
        wide(145, Op::Uids(2)),
        wide(146, Op::Uids(1)),
        wide(147, Op::Uids(3)),
        wide(149, Op::Gids(3)),
        wide(151, Op::Uids(1)),
        wide(152, Op::Gids(1)),
        wide(159, Op::Groups),
        wide(463, Op::Xattrat),
    ],
    variant: 0,
};

/// 32-bit ARM.
pub const ARM: Arch = Arch { audit: 0x4000_0028, calls: old_calls!(325), variant: 0 };

/// The architectures of callers on this machine.
#[cfg(target_arch = "x86_64")]
pub const HERE: [Arch; 2] = [X86_64, I386];
/// The architectures of callers on this machine.
#[cfg(target_arch = "aarch64")]
pub const HERE: [Arch; 2] = [AARCH64, ARM];

/// The architecture of this number.
pub fn arch(audit: u32) -> Option<&'static Arch> {
    const ALL: [Arch; 4] = [X86_64, I386, AARCH64, ARM];
    static TABLE: [Arch; 4] = ALL;
    TABLE.iter().find(|a| a.audit == audit)
}
