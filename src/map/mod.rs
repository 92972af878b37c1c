//! The arithmetic of id maps. No I/O, and nothing of ours is imported here.

pub mod assign;
pub mod chain;
pub mod idmap;
pub mod kind;
pub mod layout;
pub mod pool;
pub mod ranges;

/// The largest valid user or group id. 2^32-1 is `(uid_t)-1`, which means "no change" to chown(2) and setresuid(2).
pub const MAX_ID: u32 = u32::MAX - 1;

/// Enough of somebody's text to recognise it in a message.
pub fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

/// A text without what would steer a terminal: control characters as Rust writes them.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
