//! Users and groups: what is said of each, or of both.

use std::fmt;

/// Users or groups. As text: `uid` or `gid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Uid,
    Gid,
}

impl Kind {
    pub const BOTH: [Kind; 2] = [Kind::Uid, Kind::Gid];

    /// As in "user id" and "group id".
    pub fn word(self) -> &'static str {
        match self {
            Kind::Uid => "user",
            Kind::Gid => "group",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Uid => "uid",
            Kind::Gid => "gid",
        })
    }
}

/// One thing for users and one for groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Both<T> {
    pub uids: T,
    pub gids: T,
}

impl<T> Both<T> {
    pub fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Uid => &self.uids,
            Kind::Gid => &self.gids,
        }
    }

    pub fn new(mut make: impl FnMut(Kind) -> T) -> Both<T> {
        Both { uids: make(Kind::Uid), gids: make(Kind::Gid) }
    }

    /// Makes each by its kind; the first error ends it.
    pub fn try_new<E>(mut make: impl FnMut(Kind) -> Result<T, E>) -> Result<Both<T>, E> {
        Ok(Both { uids: make(Kind::Uid)?, gids: make(Kind::Gid)? })
    }

    pub fn all(&self, is: impl Fn(&T) -> bool) -> bool {
        is(&self.uids) && is(&self.gids)
    }
}
