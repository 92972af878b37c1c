//! `plan --nest`: how many ids each of several namespaces, one in the other, must be given.

use super::text::{put, span};
use crate::map::MAX_ID;
use crate::map::chain::MAX_LEVELS;

/// Plans `levels` namespaces that keep `each` ids for themselves and give the rest to the next one inside. The first of
/// the host's ids is `first`. What comes of it is text: for each level its ids, those of the host that they are, its map,
/// and the `/etc/subuid` line that allows it, which is written where the level is made.
pub fn report(first: u32, levels: u32, each: u32) -> Result<String, String> {
    if levels == 0 || levels > MAX_LEVELS {
        return Err(format!("{levels} is not a number of levels: the kernel nests 1 to {MAX_LEVELS}"));
    }
    if each == 0 {
        return Err("each level needs an id at least".into());
    }
    let total = u64::from(levels) * u64::from(each);
    if u64::from(first) + total > u64::from(MAX_ID) + 1 {
        return Err(format!("{total} ids from {first} on go past the last id, {MAX_ID}"));
    }
    let s = if levels == 1 { "" } else { "s" };
    let mut text = format!("{levels} level{s} of {each} ids: {total} ids of the host, {}\n", span(first, total as u32));
    for level in 1..=levels {
        // At most `total`, which is a number of ids.
        let count = (levels - level + 1) * each;
        let host = span(first + (level - 1) * each, count);
        put(&mut text, format_args!("\nlevel {level}: {count} ids, host {host}\n  it keeps  {}", span(0, each)));
        if level < levels {
            put(&mut text, format_args!(", and {} for level {}", span(each, count - each), level + 1));
        }
        let (start, user) = if level == 1 { (first, "USER") } else { (each, "root") };
        let words = format_args!(
            "\n  map       0:{start}:{count}\n  subuid    {user}:{start}:{count}  (/etc/subuid, subgid of "
        );
        put(&mut text, words);
        match level {
            1 => text.push_str("the host)\n"),
            _ => put(&mut text, format_args!("level {})\n", level - 1)),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::chain::compose;
    use crate::map::idmap::IdMap;

    /// The example of the article on LXD in LXD in LXD.
    #[test]
    fn three_levels() {
        let text = report(500000, 3, 65536).unwrap();
        assert_eq!(
            text,
            "\
3 levels of 65536 ids: 196608 ids of the host, 500000-696607

level 1: 196608 ids, host 500000-696607
  it keeps  0-65535, and 65536-196607 for level 2
  map       0:500000:196608
  subuid    USER:500000:196608  (/etc/subuid, subgid of the host)

level 2: 131072 ids, host 565536-696607
  it keeps  0-65535, and 65536-131071 for level 3
  map       0:65536:131072
  subuid    root:65536:131072  (/etc/subuid, subgid of level 1)

level 3: 65536 ids, host 631072-696607
  it keeps  0-65535
  map       0:65536:65536
  subuid    root:65536:65536  (/etc/subuid, subgid of level 2)
"
        );
        let maps = text.lines().filter_map(|l| l.strip_prefix("  map       "));
        let maps: Vec<IdMap> = maps.map(|m| IdMap::parse(&m.replace(':', " ")).unwrap()).collect();
        assert_eq!(compose(&maps).to_string(), "0 631072 65536\n");
    }

    #[test]
    fn bounds() {
        assert_eq!(report(0, 0, 1).unwrap_err(), "0 is not a number of levels: the kernel nests 1 to 32");
        assert_eq!(report(0, 33, 1).unwrap_err(), "33 is not a number of levels: the kernel nests 1 to 32");
        assert_eq!(report(0, 1, 0).unwrap_err(), "each level needs an id at least");
        let past = "2 ids from 4294967294 on go past the last id, 4294967294";
        assert_eq!(report(MAX_ID, 2, 1).unwrap_err(), past);
        assert_eq!(report(0, 32, u32::MAX).unwrap_err(), "137438953440 ids from 0 on go past the last id, 4294967294");
        assert!(report(MAX_ID, 1, 1).unwrap().contains("level 1: 1 ids, host 4294967294\n"));
        assert!(report(1, 1, MAX_ID).is_ok());
        for text in [report(1, 1, MAX_ID), report(2_147_483_648, 2, 1_000_000_000)] {
            let text = text.unwrap();
            assert!(text.lines().all(|l| l.len() <= 80), "{text}");
        }
    }
}
