//! A plan as text, as options, as configuration and as JSON.

use super::super::colons;
use super::super::json::quote;
use super::super::source::put;
use super::super::subid::{Granted, Ids};
use super::{ALWAYS, Plan, ids_of, image, named};
use crate::map::idmap::{IdMap, MAX_LINES};
use crate::map::layout::{Layout, Limit};
use crate::map::pool::rule;
use crate::map::ranges::Ranges;
use crate::pod::config::ANNOTATION;

/// Columns of a terminal.
const WIDTH: usize = 80;
/// More items than this are only counted.
const MAX_ITEMS: usize = 24;
/// The kinds of ids, and whether they are groups'.
const KINDS: [(&str, bool); 2] = [("uids", false), ("gids", true)];

impl Plan {
    fn kind(&self, group: bool) -> &(Granted, Layout) {
        if group { &self.gids } else { &self.uids }
    }
}

/// The options for `podman run`.
pub fn podman(plan: &Plan) -> Vec<String> {
    let options = |option: &str, layout: &Layout| colons(&layout.map).map(|e| format!("{option} {e}")).collect();
    let both: [Vec<String>; 2] = [options("--uidmap", &plan.uids.1), options("--gidmap", &plan.gids.1)];
    both.concat()
}

/// What a person reads.
pub fn text(plan: &Plan) -> String {
    let mut out = String::from("ids");
    if let Some(user) = &plan.user {
        put(&mut out, format_args!(" of {}, from /etc/subuid and /etc/subgid", user.escape_debug()));
    }
    out.push('\n');
    for (kind, group) in KINDS {
        let (granted, layout) = plan.kind(group);
        wrap(&mut out, &format!("  {kind}  "), &format!("{}: {}", total(&layout.map), granted.describe()));
    }
    out.push_str("\nmap of the node, container:intermediate:amount (0 is the user's own id)\n");
    let map = |group| colons(&plan.kind(group).1.map).collect::<Vec<_>>();
    wrap(&mut out, "  uids  ", &map(false).join(" "));
    let same = plan.uids.1.map == plan.gids.1.map;
    wrap(&mut out, "  gids  ", &if same { "the same".to_owned() } else { map(true).join(" ") });
    let (uid_pool, gid_pool) = (plan.uids.1.pool, plan.gids.1.pool);
    let (uids, gids) = (rule(uid_pool), rule(gid_pool));
    match uid_pool == gid_pool {
        true => put(&mut out, format_args!("  pool  {uid_pool}: any other id is placed on {uids}\n")),
        false => put(
            &mut out,
            format_args!(
                "  pool  {uid_pool} uids, {gid_pool} gids: any other uid is placed on\n        {uids}, gid on {gids}\n"
            ),
        ),
    }
    out.push_str(
        "        another map or pool later re-owns files of these and of pinned ids on
        volumes: README, \"When the pool changes\", says how to move them\n",
    );
    for (kind, group) in KINDS {
        let layout = &plan.kind(group).1;
        let why = match layout.limit {
            None => continue,
            Some(Limit::Ids) => "at least half of the ids stay in the pool",
            Some(Limit::Size) => "the kernel takes 340 lines and 4095 bytes",
        };
        wrap(&mut out, &format!("  without {kind} "), &format!("{}: {why}", layout.left_out.listed(MAX_ITEMS)));
    }
    out.push_str("\npodman run, rootless\n");
    fill(&mut out, "  ", " \\", &podman(plan));
    out.push_str(
        "
an image that podman cannot unpack, for files of ids that the user lacks
  podman unshare uid-nri-plugin supervise -- podman pull IMAGE

podman-compose: in the service from 1.2 on (before, use --podman-run-args)\n",
    );
    for (key, group) in [("uidmaps", false), ("gidmaps", true)] {
        wrap(&mut out, &format!("  x-podman.{key}: ["), &format!("\"{}\"]", map(group).join("\", \"")));
    }
    out.push_str(
        "
docker, docker compose, nerdctl: no such option; rootless they map all ids
from 0 on. Begin the node's entrypoint with \"uid-nri-plugin node --\"\n",
    );
    plan.images.iter().for_each(|image| one_image(&mut out, plan, image));
    if !plan.manifests.is_empty() {
        manifests(&mut out, plan);
    }
    out
}

fn total(map: &IdMap) -> u32 {
    map.extents().iter().map(|e| e.count).sum()
}

fn one_image(out: &mut String, plan: &Plan, image: &image::Image) {
    let id = |id: Option<u32>| id.map_or("unknown".to_owned(), |id| id.to_string());
    let user = if image.user.is_empty() { "none" } else { &image.user };
    let (name, user, uid, gid) = (image.name.escape_debug(), user.escape_debug(), id(image.uid), id(image.gid));
    let groups = if image.groups.is_empty() { "" } else { ", groups " };
    let all = image.groups.listed(MAX_ITEMS);
    put(out, format_args!("\nimage {name}\n  USER    {user}: runs as {uid}:{gid}{groups}{all}\n"));
    let mut all_native = true;
    for (n, (uids, gids)) in fate(plan, image, false).iter().zip(&fate(plan, image, true)).enumerate() {
        let mut words = Vec::new();
        for (kind, ids) in [("uids", uids), ("gids", gids)] {
            if !ids.is_empty() {
                words.push(format!("{kind} {}", ids.listed(MAX_ITEMS)));
            }
        }
        if !words.is_empty() {
            wrap(out, &format!("  {}  ", FATES[n]), &words.join(" "));
            all_native &= n == 0;
        }
    }
    for (label, group) in [("passwd", false), ("group ", true)] {
        let mut above = above(plan, image, group).map(|a| format!("{} {}", a.name.escape_debug(), a.id(group)));
        let mut shown: Vec<String> = above.by_ref().take(MAX_ITEMS).collect();
        let more = above.count();
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        if !shown.is_empty() {
            wrap(out, &format!("  {label}  "), &format!("above the pool: {}", shown.join(", ")));
        }
    }
    claim(out, &claims(plan, image));
    image.unknown.iter().for_each(|what| wrap(out, "  ", what));
    if image.unknown.is_empty() && all_native {
        out.push_str("  all its ids are in the node's map\n");
    }
}

/// Accounts of passwd or group whose id the pool lacks.
fn above<'a>(plan: &Plan, image: &'a image::Image, group: bool) -> impl Iterator<Item = &'a image::Account> {
    let pool = plan.kind(group).1.pool;
    let accounts = if group { &image.group } else { &image.passwd };
    accounts.iter().filter(move |account| account.id(group) >= pool)
}

/// What manifests name, so that what was missed is seen.
fn manifests(out: &mut String, plan: &Plan) {
    out.push_str("\nids in manifests, and their lines\n");
    let mut silent = 0;
    for (path, ids) in &plan.manifests {
        if ids.is_empty() {
            silent += 1;
            continue;
        }
        put(out, format_args!("  {path:?}\n"));
        for (kind, group) in KINDS {
            let ids = ids.iter().filter(|id| id.group == group);
            let words: Vec<String> = ids.map(|id| format!("{} ({})", id.id, id.line)).collect();
            if !words.is_empty() {
                wrap(out, &format!("    {kind}  "), &words.join(", "));
            }
        }
    }
    if silent > 0 {
        put(out, format_args!("  {silent} of {} name none\n", plan.manifests.len()));
    }
    claim(out, &manifest_claims(plan));
}

/// The annotation of a pod that claims these user and group ids.
fn claim(out: &mut String, claims: &[Ranges; 2]) {
    let words = claim_words(claims);
    if !words.is_empty() {
        out.push_str("  claim   true numbers on a node without this map, by the pod's annotation\n");
        fill(out, &format!("    {ANNOTATION}: "), "", &words);
    }
}

fn claim_words(claims: &[Ranges; 2]) -> Vec<String> {
    let words = KINDS.iter().zip(claims).filter(|(_, ids)| !ids.is_empty());
    words.map(|((kind, _), ids)| format!("claim-{kind}={ids}")).collect()
}

/// The ids of an image that a plain pool need not have; without accounts that every namespace has by default, as nobody.
fn claims(plan: &Plan, image: &image::Image) -> [Ranges; 2] {
    let default = Ranges::new(ALWAYS.to_vec());
    [false, true].map(|group| {
        let [set, attributes, owned, accounts] = ids_of(image, group);
        let accounts = accounts.filter(&|id| !default.contains(id));
        beyond(plan, group, &Ranges::union(&[&set, &attributes, &owned, &accounts]))
    })
}

fn manifest_claims(plan: &Plan) -> [Ranges; 2] {
    [false, true].map(|group| beyond(plan, group, &named(&plan.manifests, group)))
}

/// Those that the pool lacks, as many as a map may have lines.
fn beyond(plan: &Plan, group: bool, ids: &Ranges) -> Ranges {
    let pool = plan.kind(group).1.pool;
    Ranges::new(ids.filter(&|id| id >= pool).iter().take(MAX_LINES).cloned().collect())
}

/// Lines for the plugin's configuration.
pub fn config(plan: &Plan) -> String {
    let (mut lines, mut out) = (Vec::<(&String, [Ranges; 2])>::new(), String::new());
    for image in &plan.images {
        let claims = claims(plan, image);
        if image.patterns.is_empty() {
            let name = image.name.escape_debug();
            put(&mut out, format_args!("# {name}: neither its reference nor its digest is told\n"));
        }
        for pattern in &image.patterns {
            match lines.iter_mut().find(|(other, _)| *other == pattern) {
                // Another platform's.
                Some((_, all)) => all.iter_mut().zip(&claims).for_each(|(all, ids)| *all = Ranges::union(&[all, ids])),
                None => lines.push((pattern, claims.clone())),
            }
        }
    }
    for (pattern, claims) in lines {
        match &*claim_words(&claims).join(" ") {
            "" => put(&mut out, format_args!("# {pattern} has no ids to claim\n")),
            words => put(&mut out, format_args!("image {pattern} {words}\n")),
        }
    }
    out
}

/// What becomes of an image's ids: in the node's map; given to the container under the true number, by the plugin; placed
/// by the rule, by supervise, since files are unpacked before there is a container that could have the id.
const FATES: [&str; 3] = ["native", "plugin", "folded"];

/// The user or group ids of an image by what becomes of them.
fn fate(plan: &Plan, image: &image::Image, group: bool) -> [Ranges; 3] {
    let layout = &plan.kind(group).1;
    let [set, attributes, owned, accounts] = ids_of(image, group);
    let has = |id| id < layout.pool || layout.pinned.contains(id);
    let lacking = |ids: &Ranges| ids.filter(&|id| !has(id));
    let above = accounts.filter(&|id| id >= layout.pool);
    let native = Ranges::union(&[&set, &attributes, &owned, &above]).filter(&has);
    let others = above.filter(&|id| !set.contains(id));
    [native, lacking(&set), lacking(&Ranges::union(&[&owned, &attributes, &others]))]
}

/// What a script reads.
pub fn json(plan: &Plan) -> String {
    let ranges = |ids: &Ranges| quote(&ids.to_string());
    let kind = |group| {
        let (granted, layout) = plan.kind(group);
        let subordinate = match &granted.ranges {
            Ids::Count(_) => &[][..],
            Ids::Ranges(ranges) => ranges,
        };
        let subordinate = subordinate
            .iter()
            .map(|r| object(&[("first", r.start().to_string()), ("count", (r.end() - r.start() + 1).to_string())]));
        let map = layout.map.extents().iter().map(|e| {
            let [inside, outside, count] = [e.inside, e.outside, e.count].map(|n| n.to_string());
            object(&[("containerID", inside), ("intermediateID", outside), ("size", count)])
        });
        let why = match layout.limit {
            None => "null",
            Some(Limit::Ids) => "\"pool\"",
            Some(Limit::Size) => "\"kernel\"",
        };
        object(&[
            ("available", total(&layout.map).to_string()),
            ("own", or_null(granted.own)),
            ("subordinate", array(&mut { subordinate })),
            ("map", array(&mut { map })),
            ("pool", layout.pool.to_string()),
            ("pinned", ranges(&layout.pinned)),
            ("leftOut", ranges(&layout.left_out)),
            ("limit", why.to_owned()),
        ])
    };
    let claims = |[uids, gids]: [Ranges; 2]| object(&[("uids", ranges(&uids)), ("gids", ranges(&gids))]);
    let image = |image: &image::Image| {
        let fate = |group| {
            let mut members: Vec<_> = FATES.into_iter().zip(fate(plan, image, group).iter().map(ranges)).collect();
            members.push(("unlistedFiles", image.ids[usize::from(group)].unlisted.to_string()));
            object(&members)
        };
        let accounts = |group| {
            let ids =
                |a: &image::Account| [("name", quote(&a.name)), ("gid", a.gid.to_string()), ("uid", a.uid.to_string())];
            array(&mut above(plan, image, group).map(|a| object(&ids(a)[..3 - usize::from(group)])))
        };
        object(&[
            ("name", quote(&image.name)),
            ("patterns", array(&mut image.patterns.iter().map(|pattern| quote(pattern)))),
            ("user", quote(&image.user)),
            ("uid", or_null(image.uid)),
            ("gid", or_null(image.gid)),
            ("groups", ranges(&image.groups)),
            ("uids", fate(false)),
            ("gids", fate(true)),
            ("accountsAbovePool", accounts(false)),
            ("groupsAbovePool", accounts(true)),
            ("claims", claims(self::claims(plan, image))),
            ("unknown", array(&mut image.unknown.iter().map(|what| quote(what)))),
        ])
    };
    let manifests = plan.manifests.iter().map(|(path, ids)| {
        let mut ids = ids.iter().map(|id| {
            let kind = if id.group { "\"gid\"" } else { "\"uid\"" };
            object(&[("kind", kind.to_owned()), ("id", id.id.to_string()), ("line", id.line.to_string())])
        });
        object(&[("file", quote(&path.to_string_lossy())), ("ids", array(&mut ids))])
    });
    let options = podman(plan).join(" ");
    object(&[
        ("user", plan.user.as_ref().map_or("null".to_owned(), |user| quote(user))),
        ("uids", kind(false)),
        ("gids", kind(true)),
        ("podman", array(&mut options.split(' ').map(quote))),
        ("images", array(&mut plan.images.iter().map(image))),
        ("manifests", array(&mut { manifests })),
        ("manifestClaims", claims(manifest_claims(plan))),
    ]) + "\n"
}

fn object(members: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (key, value) in members {
        let before = if out.is_empty() { '{' } else { ',' };
        put(&mut out, format_args!("{before}\"{key}\":{value}"));
    }
    out + "}"
}

fn array(items: &mut dyn Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn or_null(id: Option<u32>) -> String {
    id.map_or("null".to_owned(), |id| id.to_string())
}

fn wrap(out: &mut String, label: &str, text: &str) {
    fill(out, label, "", &text.split(' ').map(str::to_owned).collect::<Vec<_>>());
}

/// Words in lines of at most 80 columns; all but the last end with `joint`, all but the first are indented as the text
/// after `label` is.
fn fill(out: &mut String, label: &str, joint: &str, words: &[String]) {
    let mut column = label.len();
    out.push_str(label);
    for (n, word) in words.iter().enumerate() {
        let width = word.chars().count();
        if n > 0 && column + 1 + width + joint.len() > WIDTH {
            put(out, format_args!("{joint}\n{:1$}", "", label.len()));
            column = label.len();
        } else if n > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::image::{Account, Image, Owners};
    use super::super::{manifest, plan};
    use super::*;

    fn owners(ids: &[(u32, u64)], unlisted: u64) -> Owners {
        Owners { files: ids.iter().copied().collect(), unlisted }
    }

    fn example() -> Plan {
        let id = |id, group, line| manifest::Id { id, group, line };
        let found = vec![id(3000, false, 7), id(2000, true, 8), id(7, false, 12)];
        let manifests =
            [("app\u{1b}.yaml", found), ("b", vec![]), ("c", vec![])].map(|(path, ids)| (path.into(), ids)).into();
        let granted = |own, first| Granted { own: Some(own), ranges: Ids::Ranges(vec![first..=first + 2047]) };
        let account = |name: &str, uid| Account { name: name.into(), uid, gid: uid, members: String::new() };
        let plain = |gids| [owners(&[(0, 1)], 0), gids, Owners::default(), Owners::default()];
        let images = vec![
            Image {
                name: "example/app:1".into(),
                patterns: vec!["docker.io/example/app:1".into(), "x/y:1".into()],
                groups: Ranges::parse("7,20002").unwrap(),
                user: "app".into(),
                uid: Some(200_000),
                gid: Some(10001),
                ids: [
                    owners(&[(0, 10), (200_000, 3), (4_000_000, 1)], 0),
                    owners(&[(0, 10), (10001, 4)], 0),
                    owners(&[(5_000_000, 1), (3, 1)], 0),
                    Owners::default(),
                ],
                passwd: vec![account("root", 0), account("nobody", 65534), account("a\u{1b}pp", 200_000)],
                group: vec![Account { uid: 0, ..account("gosu", 73_000) }],
                ..Image::default()
            },
            Image {
                name: "plain".into(),
                user: String::new(),
                uid: Some(0),
                gid: None,
                ids: plain(owners(&[(0, 1), (42, 1)], 7)),
                unknown: vec!["7 files with yet other owners".into()],
                ..Image::default()
            },
            Image {
                name: "low".into(),
                user: "5".into(),
                uid: Some(5),
                gid: Some(0),
                ids: plain(owners(&[(0, 1)], 0)),
                passwd: vec![account("nobody", 65534)],
                patterns: vec!["sha256:00".into()],
                ..Image::default()
            },
        ];
        // So many pins that the half is reached: the images' own do not all fit.
        let pins = Ranges::parse("1000000-1001018").unwrap();
        plan(Some("alice".into()), granted(1000, 100_000), granted(100, 300_000), &[pins], images, manifests).unwrap()
    }

    #[test]
    fn text_of_a_plan() {
        assert_eq!(text(&example()), TEXT);
        assert!(TEXT.lines().all(|line| line.chars().count() <= WIDTH));
    }

    const TEXT: &str = "\
ids of alice, from /etc/subuid and /etc/subgid
  uids  2049: 1000, 100000-102047
  gids  2049: 100, 300000-302047

map of the node, container:intermediate:amount (0 is the user's own id)
  uids  0:0:1025 3000:1025:1 65532:1026:4 1000000:1030:1019
  gids  0:0:1025 2000:1025:1 65532:1026:4 1000000:1030:1019
  pool  1025: any other id is placed on 512 + id mod 513
        another map or pool later re-owns files of these and of pinned ids on
        volumes: README, \"When the pool changes\", says how to move them
  without uids 2102-2103, 5050, 7474, 8737, 8983, 9999-10002, 10014, 11211,
               50000, 200000, 4000000, 5000000: at least half of the ids stay in
               the pool
  without gids 2102-2103, 5050, 7474, 8737, 8983, 9999-10002, 10014, 11211,
               20002, 50000, 73000, 200000: at least half of the ids stay in the
               pool

podman run, rootless
  --uidmap 0:0:1025 --uidmap 3000:1025:1 --uidmap 65532:1026:4 \\
  --uidmap 1000000:1030:1019 --gidmap 0:0:1025 --gidmap 2000:1025:1 \\
  --gidmap 65532:1026:4 --gidmap 1000000:1030:1019

an image that podman cannot unpack, for files of ids that the user lacks
  podman unshare uid-nri-plugin supervise -- podman pull IMAGE

podman-compose: in the service from 1.2 on (before, use --podman-run-args)
  x-podman.uidmaps: [\"0:0:1025\", \"3000:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]
  x-podman.gidmaps: [\"0:0:1025\", \"2000:1025:1\", \"65532:1026:4\",
                     \"1000000:1030:1019\"]

docker, docker compose, nerdctl: no such option; rootless they map all ids
from 0 on. Begin the node's entrypoint with \"uid-nri-plugin node --\"

image example/app:1
  USER    app: runs as 200000:10001, groups 7, 20002
  native  uids 0, 3, 65534 gids 0, 7, 65534
  plugin  uids 200000 gids 10001, 20002
  folded  uids 200000, 4000000, 5000000 gids 10001, 73000, 200000
  passwd  above the pool: nobody 65534, a\\u{1b}pp 200000
  group   above the pool: gosu 73000
  claim   true numbers on a node without this map, by the pod's annotation
    uid-mapper.noderesource.dev: claim-uids=200000,4000000,5000000
                                 claim-gids=10001,20002,73000,200000

image plain
  USER    none: runs as 0:unknown
  native  uids 0 gids 0, 42
  7 files with yet other owners

image low
  USER    5: runs as 5:0
  native  uids 0, 5, 65534 gids 0, 65534
  passwd  above the pool: nobody 65534
  all its ids are in the node's map

ids in manifests, and their lines
  \"app\\u{1b}.yaml\"
    uids  3000 (7), 7 (12)
    gids  2000 (8)
  2 of 3 name none
  claim   true numbers on a node without this map, by the pod's annotation
    uid-mapper.noderesource.dev: claim-uids=3000 claim-gids=2000
";

    #[test]
    fn lines_for_the_configuration() {
        let mut plan = example();
        // Another platform of the first image, and an image with ids that are accounts only.
        let mut other = plan.images[0].clone();
        other.patterns.pop();
        other.passwd[0].uid = 70_000;
        plan.images.push(other);
        plan.images[1].name = "a\nimage *".into();
        let expected = "\
# a\\nimage *: neither its reference nor its digest is told
image docker.io/example/app:1 claim-uids=70000,200000,4000000,5000000 claim-gids=10001,20002,73000,200000
image x/y:1 claim-uids=200000,4000000,5000000 claim-gids=10001,20002,73000,200000
# sha256:00 has no ids to claim
";
        assert_eq!(config(&plan), expected);
        assert_eq!(crate::pod::config::PluginConfig::parse(expected).unwrap().images.len(), 2);
    }

    #[test]
    fn json_of_a_plan() {
        use super::super::super::json::Value;
        let value = Value::parse(&json(&example())).unwrap();
        let number = |path: &[&str]| value.at(path).and_then(Value::number);
        assert_eq!(number(&["uids", "available"]), Some(2049));
        assert_eq!(number(&["uids", "pool"]), Some(1025));
        assert_eq!(value.at(&["uids", "limit"]).and_then(Value::text), Some("pool"));
        assert_eq!(value.at(&["uids", "pinned"]).and_then(Value::text), Some("3000,65532-65535,1000000-1001018"));
        let first = &value.at(&["uids", "map"]).unwrap().list()[1];
        let of = |key| first.get(key).and_then(Value::number);
        assert_eq!([of("containerID"), of("intermediateID"), of("size")], [Some(3000), Some(1025), Some(1)]);
        let images = value.get("images").unwrap().list();
        assert_eq!(images[0].at(&["uids", "plugin"]).and_then(Value::text), Some("200000"));
        assert_eq!(images[0].at(&["uids", "folded"]).and_then(Value::text), Some("200000,4000000,5000000"));
        assert_eq!(images[0].get("groups").and_then(Value::text), Some("7,20002"));
        assert_eq!(images[0].at(&["claims", "gids"]).and_then(Value::text), Some("10001,20002,73000,200000"));
        assert_eq!(images[0].get("groupsAbovePool").unwrap().list()[0].get("gid").and_then(Value::number), Some(73000));
        assert_eq!(images[1].get("unknown").unwrap().list(), [Value::Text("7 files with yet other owners".into())]);
        let manifest = &value.get("manifests").unwrap().list()[0];
        assert_eq!(manifest.get("file").and_then(Value::text), Some("app\u{1b}.yaml"));
        let id = &manifest.get("ids").unwrap().list()[1];
        let of = |key| id.get(key).and_then(Value::number);
        assert_eq!((id.get("kind").and_then(Value::text), of("id"), of("line")), (Some("gid"), Some(2000), Some(8)));
        assert_eq!(value.at(&["manifestClaims", "uids"]).and_then(Value::text), Some("3000"));
        assert_eq!(images[1].at(&["gids", "unlistedFiles"]).and_then(Value::number), Some(7));
        assert_eq!(images[1].get("gid"), Some(&Value::Word("null".into())));
        let options: Vec<_> = value.get("podman").unwrap().list().iter().filter_map(Value::text).collect();
        assert_eq!(options.join(" "), podman(&example()).join(" "));
    }
}
