//! A plan as text, as options, as configuration and as JSON.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::super::colons;
use super::super::json::{Value, object};
use super::super::subid::Ids;
use super::super::text::{fill, paragraph, put};
use super::{ALWAYS, Plan, ids_of, image, manifest, named};
use crate::map::idmap::{Extent, IdMap, MAX_LINES};
use crate::map::kind::{Both, Kind};
use crate::map::layout::Limit;
use crate::map::pool::rule;
use crate::map::ranges::Ranges;
use crate::pod::config::ANNOTATION;

/// More items than this are only counted.
const MAX_ITEMS: usize = 24;

/// The options for `podman run`.
pub fn podman(plan: &Plan) -> Vec<String> {
    let options = |kind: Kind| colons(&plan.layouts.of(kind).map).map(move |e| format!("--{kind}map {e}"));
    Kind::BOTH.into_iter().flat_map(options).collect()
}

pub fn text(plan: &Plan) -> String {
    let mut out = String::from("ids");
    if let Some(user) = &plan.user {
        put(&mut out, format_args!(" of {}, from /etc/subuid and /etc/subgid", user.escape_debug()));
    }
    out.push('\n');
    for kind in Kind::BOTH {
        let (granted, layout) = (plan.granted.of(kind), plan.layouts.of(kind));
        paragraph(&mut out, &format!("  {kind}s  "), &format!("{}: {}", total(&layout.map), granted.describe()));
    }
    out.push_str("\nmap of the node, container:intermediate:amount (0 is the user's own id)\n");
    let Both { uids, gids } = &plan.layouts;
    let map = |kind, joint: &str| colons(&plan.layouts.of(kind).map).collect::<Vec<_>>().join(joint);
    paragraph(&mut out, "  uids  ", &map(Kind::Uid, " "));
    paragraph(&mut out, "  gids  ", &if uids.map == gids.map { "the same".to_owned() } else { map(Kind::Gid, " ") });
    let (uid_rule, gid_rule) = (rule(uids.pool), rule(gids.pool));
    match (uids.pool, gids.pool) {
        (pool, other) if pool == other => {
            put(&mut out, format_args!("  pool  {pool}: any other id is placed on {uid_rule}\n"))
        }
        (uids, gids) => {
            put(&mut out, format_args!("  pool  {uids} uids, {gids} gids: any other uid is placed on\n"));
            put(&mut out, format_args!("        {uid_rule}, gid on {gid_rule}\n"));
        }
    }
    out.push_str(
        "        another map or pool later re-owns files of these and of pinned ids on
        volumes: README, \"When the pool changes\", says how to move them\n",
    );
    for kind in Kind::BOTH {
        let layout = plan.layouts.of(kind);
        let why = match layout.limit {
            None => continue,
            Some(Limit::Ids) => "at least half of the ids stay in the pool",
            Some(Limit::Size) => "the kernel takes 340 lines and 4095 bytes",
        };
        let words = format!("{}: {why}", layout.left_out.listed(MAX_ITEMS));
        paragraph(&mut out, &format!("  without {kind}s "), &words);
    }
    out.push_str("\npodman run, rootless\n");
    fill(&mut out, "  ", 0, " \\", &mut podman(plan).iter().map(String::as_str));
    out.push_str(
        "
an image that podman cannot unpack, for files of ids that the user lacks
  podman unshare uid-nri-plugin supervise -- podman pull IMAGE

podman-compose: in the service from 1.2 on (before, use --podman-run-args)\n",
    );
    for kind in Kind::BOTH {
        paragraph(&mut out, &format!("  x-podman.{kind}maps: ["), &format!("\"{}\"]", map(kind, "\", \"")));
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
    let fates = Kind::BOTH.map(|kind| fate(plan, image, kind));
    for (n, name) in FATES.into_iter().enumerate() {
        let ids = Kind::BOTH.into_iter().zip(&fates).filter(|(_, ids)| !ids[n].is_empty());
        let words: Vec<_> = ids.map(|(kind, ids)| format!("{kind}s {}", ids[n].listed(MAX_ITEMS))).collect();
        if !words.is_empty() {
            paragraph(out, &format!("  {name}  "), &words.join(" "));
            all_native &= n == 0;
        }
    }
    for (label, kind) in [("  passwd  ", Kind::Uid), ("  group   ", Kind::Gid)] {
        let group = kind == Kind::Gid;
        let mut above = above(plan, image, kind).map(|a| format!("{} {}", a.name.escape_debug(), a.id(group)));
        let mut shown: Vec<String> = above.by_ref().take(MAX_ITEMS).collect();
        let more = above.count();
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        if !shown.is_empty() {
            paragraph(out, label, &format!("above the pool: {}", shown.join(", ")));
        }
    }
    claim(out, &claims(plan, image));
    image.unknown.iter().for_each(|what| paragraph(out, "  ", what));
    if image.unknown.is_empty() && all_native {
        out.push_str("  all its ids are in the node's map\n");
    }
}

/// Accounts of passwd or group whose id the pool lacks.
fn above<'a>(plan: &Plan, image: &'a image::Image, kind: Kind) -> impl Iterator<Item = &'a image::Account> {
    let (pool, group) = (plan.layouts.of(kind).pool, kind == Kind::Gid);
    let accounts = if group { &image.group } else { &image.passwd };
    accounts.iter().filter(move |account| account.id(group) >= pool)
}

/// What manifests name, so that what was missed is seen.
fn manifests(out: &mut String, plan: &Plan) {
    out.push_str("\nids in manifests, and their lines\n");
    for (path, ids) in plan.manifests.iter().filter(|(_, ids)| !ids.is_empty()) {
        put(out, format_args!("  {path:?}\n"));
        for kind in Kind::BOTH {
            let ids = ids.iter().filter(|id| id.group == (kind == Kind::Gid));
            let words: Vec<String> = ids.map(|id| format!("{} ({})", id.id, id.line)).collect();
            if !words.is_empty() {
                paragraph(out, &format!("    {kind}s  "), &words.join(", "));
            }
        }
    }
    let silent = plan.manifests.iter().filter(|(_, ids)| ids.is_empty()).count();
    if silent > 0 {
        put(out, format_args!("  {silent} of {} name none\n", plan.manifests.len()));
    }
    claim(out, &manifest_claims(plan));
}

/// The annotation of a pod that claims these ids.
fn claim(out: &mut String, claims: &Both<Ranges>) {
    let words = claim_words(claims);
    if !words.is_empty() {
        out.push_str("  claim   true numbers on a node without this map, by the pod's annotation\n");
        paragraph(out, &format!("    {ANNOTATION}: "), &words);
    }
}

fn claim_words(claims: &Both<Ranges>) -> String {
    let kinds = Kind::BOTH.into_iter().filter(|kind| !claims.of(*kind).is_empty());
    kinds.map(|kind| format!("claim-{kind}s={}", claims.of(kind))).collect::<Vec<_>>().join(" ")
}

/// The ids of an image that a plain pool need not have; without accounts that every namespace has by default, as nobody.
fn claims(plan: &Plan, image: &image::Image) -> Both<Ranges> {
    let default = Ranges::new(ALWAYS.to_vec());
    beyond(plan, |kind| {
        let [set, attributes, owned, accounts] = ids_of(image, kind);
        Ranges::union(&[&set, &attributes, &owned, &accounts.filter(&|id| !default.contains(id))])
    })
}

fn manifest_claims(plan: &Plan) -> Both<Ranges> {
    beyond(plan, |kind| named(&plan.manifests, kind))
}

/// Those that the pool lacks, as many as a map may have lines.
fn beyond(plan: &Plan, ids: impl Fn(Kind) -> Ranges) -> Both<Ranges> {
    Both::new(|kind| {
        let pool = plan.layouts.of(kind).pool;
        Ranges::new(ids(kind).filter(&|id| id >= pool).iter().take(MAX_LINES).cloned().collect())
    })
}

/// Lines for the plugin's configuration.
pub fn config(plan: &Plan) -> String {
    let (mut lines, mut out) = (Vec::<(&String, Both<Ranges>)>::new(), String::new());
    for image in &plan.images {
        let claims = claims(plan, image);
        if image.patterns.is_empty() {
            let name = image.name.escape_debug();
            put(&mut out, format_args!("# {name}: neither its reference nor its digest is told\n"));
        }
        for pattern in &image.patterns {
            match lines.iter_mut().find(|(other, _)| *other == pattern) {
                // Another platform's.
                Some((_, all)) => {
                    all.uids = Ranges::union(&[&all.uids, &claims.uids]);
                    all.gids = Ranges::union(&[&all.gids, &claims.gids]);
                }
                None => lines.push((pattern, claims.clone())),
            }
        }
    }
    for (pattern, claims) in lines {
        match &*claim_words(&claims) {
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
fn fate(plan: &Plan, image: &image::Image, kind: Kind) -> [Ranges; 3] {
    let layout = plan.layouts.of(kind);
    let [set, attributes, owned, accounts] = ids_of(image, kind);
    let has = |id| id < layout.pool || layout.pinned.contains(id);
    let lacking = |ids: &Ranges| ids.filter(&|id| !has(id));
    let above = accounts.filter(&|id| id >= layout.pool);
    let native = Ranges::union(&[&set, &attributes, &owned, &above]).filter(&has);
    let others = above.filter(&|id| !set.contains(id));
    [native, lacking(&set), lacking(&Ranges::union(&[&owned, &attributes, &others]))]
}

pub fn json(plan: &Plan) -> Value {
    let ranges = |ids: &Ranges| Value::from(&ids.to_string());
    let list = |items: &mut dyn Iterator<Item = Value>| items.collect::<Value>();
    let of_kind = |kind| {
        let (granted, layout) = (plan.granted.of(kind), plan.layouts.of(kind));
        let subordinate = match &granted.ranges {
            Ids::Count(_) => &[][..],
            Ids::Ranges(ranges) => ranges,
        };
        let range = |r: &RangeInclusive<u32>| object! { "first": *r.start(), "count": r.end() - r.start() + 1 };
        let line = |e: &Extent| object! { "containerID": e.inside, "intermediateID": e.outside, "size": e.count };
        let limit = layout.limit.map(|limit| if limit == Limit::Ids { "pool" } else { "kernel" });
        object! {
            "available": total(&layout.map),
            "own": granted.own,
            "subordinate": list(&mut subordinate.iter().map(range)),
            "map": list(&mut layout.map.extents().iter().map(line)),
            "pool": layout.pool,
            "pinned": ranges(&layout.pinned),
            "leftOut": ranges(&layout.left_out),
            "limit": limit,
        }
    };
    let claims_of = |ids: Both<Ranges>| object! { "uids": ranges(&ids.uids), "gids": ranges(&ids.gids) };
    let of_image = |image: &image::Image| {
        let fates = |kind| {
            let mut members: Vec<_> = FATES.into_iter().zip(fate(plan, image, kind).iter().map(ranges)).collect();
            members.push(("unlistedFiles", image.ids[usize::from(kind == Kind::Gid)].unlisted.into()));
            Value::object(members)
        };
        let user = |a: &image::Account| object! { "name": &a.name, "gid": a.gid, "uid": a.uid };
        let group = |a: &image::Account| object! { "name": &a.name, "gid": a.gid };
        object! {
            "name": &image.name,
            "patterns": list(&mut image.patterns.iter().map(Value::from)),
            "user": &image.user,
            "uid": image.uid,
            "gid": image.gid,
            "groups": ranges(&image.groups),
            "uids": fates(Kind::Uid),
            "gids": fates(Kind::Gid),
            "accountsAbovePool": list(&mut above(plan, image, Kind::Uid).map(user)),
            "groupsAbovePool": list(&mut above(plan, image, Kind::Gid).map(group)),
            "claims": claims_of(claims(plan, image)),
            "unknown": list(&mut image.unknown.iter().map(Value::from)),
        }
    };
    let manifest = |(path, ids): &(PathBuf, Vec<manifest::Id>)| {
        let id = |id: &manifest::Id| {
            object! { "kind": if id.group { "gid" } else { "uid" }, "id": id.id, "line": id.line }
        };
        object! { "file": &*path.to_string_lossy(), "ids": list(&mut ids.iter().map(id)) }
    };
    object! {
        "user": plan.user.as_ref(),
        "uids": of_kind(Kind::Uid),
        "gids": of_kind(Kind::Gid),
        "podman": list(&mut podman(plan).join(" ").split(' ').map(Value::from)),
        "images": list(&mut plan.images.iter().map(of_image)),
        "manifests": list(&mut plan.manifests.iter().map(manifest)),
        "manifestClaims": claims_of(manifest_claims(plan)),
    }
}

#[cfg(test)]
mod tests;
