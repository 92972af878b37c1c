//! From a container and its assignment to the adjustment that the runtime applies.

use std::fmt::Write;

use super::proto::nri::{Container, ContainerAdjustment, LinuxContainerAdjustment, LinuxNamespace, Mount, PodSandbox};
use crate::map::assign::{Assignment, Collision};
use crate::pod::podfs::PodFs;
use crate::pod::policy::{ANNOTATION, Candidate, Image, User};

/// More collisions than this are only counted in the annotation.
const MAX_COLLISIONS: usize = 100;

/// What the decision needs of the runtime's message.
pub fn candidate<'a>(pod: &'a PodSandbox, container: &'a Container) -> Candidate<'a> {
    // A volume on /sys takes the place of the sysfs that a privileged container would have.
    let writable_sys = |m: &Mount| m.destination == "/sys" && !m.options.iter().any(|o| o == "ro");
    Candidate {
        namespace: &pod.namespace,
        annotations: &pod.annotations,
        name: &container.name,
        privileged: container.mounts.iter().any(writable_sys),
        user_namespace: find(container, "user").is_some(),
        user: container.user.as_ref().map(|u| User {
            uid: u.uid,
            gid: u.gid,
            additional_gids: u.additional_gids.clone(),
        }),
        image: Image {
            name: &container.image.name,
            digests: [&container.image.digest, &container.image.config_digest],
        },
    }
}

/// The path of the container's network namespace; None if it has none of its own.
pub fn network(container: &Container) -> Option<&str> {
    find(container, "network").map(|ns| ns.path.as_str())
}

fn find<'a>(container: &'a Container, kind: &str) -> Option<&'a LinuxNamespace> {
    container.linux.namespaces.iter().find(|ns| ns.type_ == kind)
}

/// A mount of the container that its user namespace may not make, and the namespace that it has to show.
pub struct Foreign<'a> {
    /// The mount.
    pub mount: &'a Mount,
    /// What file system.
    pub fs: PodFs,
    /// The namespace's path; None: the node's own.
    pub namespace: Option<&'a str>,
}

/// The mounts of file systems whose namespace the container shares with its pod or the node.
pub fn foreign_mounts(container: &Container) -> Vec<Foreign<'_>> {
    let mut all = Vec::new();
    for mount in &container.mounts {
        let Some(fs) = PodFs::of_type(&mount.type_) else { continue };
        match find(container, fs.namespace()) {
            // Without a path it is a new one, which will belong to the container.
            Some(ns) if ns.path.is_empty() => {}
            ns => all.push(Foreign { mount, fs, namespace: ns.map(|ns| ns.path.as_str()) }),
        }
    }
    all
}

/// The ids that options of the container's mounts name with `uid=` or `gid=`, such as the 5 (tty) of its devpts: the
/// mount fails with EINVAL where the namespace has no such id.
pub fn mount_ids(container: &Container, option: &str) -> Vec<u32> {
    let options = container.mounts.iter().flat_map(|m| &m.options);
    options.filter_map(|o| o.strip_prefix(option)?.parse().ok()).collect()
}

/// Both assignments of a container.
pub struct Assignments<'a> {
    /// Users.
    pub uid: &'a Assignment,
    /// Groups.
    pub gid: &'a Assignment,
}

/// The adjustment: the namespace, binds in place of foreign mounts (with their sources), and annotations.
pub fn adjustment(namespace: String, binds: &[(Foreign, String)], both: &Assignments) -> ContainerAdjustment {
    let mut adjust = ContainerAdjustment::new();
    let user = LinuxNamespace { type_: "user".into(), path: namespace, ..Default::default() };
    adjust.linux = Some(LinuxContainerAdjustment { namespaces: vec![user], ..Default::default() }).into();
    for (foreign, source) in binds {
        let destination = &foreign.mount.destination;
        // NRI removes a mount by an entry whose destination has a '-' in front.
        adjust.mounts.push(Mount { destination: format!("-{destination}"), ..Default::default() });
        let mut options = foreign.mount.options.clone();
        options.push("bind".into());
        adjust.mounts.push(Mount {
            destination: destination.clone(),
            type_: "bind".into(),
            source: source.clone(),
            options,
            ..Default::default()
        });
    }
    let mut annotate = |name: &str, value| adjust.annotations.insert(format!("{ANNOTATION}/{name}"), value);
    annotate("uid-mappings", both.uid.map.oci());
    annotate("gid-mappings", both.gid.map.oci());
    let collisions = collisions_json(both);
    if collisions != "[]" {
        annotate("collisions", collisions);
    }
    adjust
}

/// `[{"type":"uid","id":7,"slot":3,"heldBy":5,"movedTo":2}, …]`: heldBy is null where the map had no line left,
/// movedTo where the id was left out. A last `{"more":N}` counts what is not listed.
fn collisions_json(both: &Assignments) -> String {
    let of = |kind, list: &[Collision]| list.iter().map(move |c| (kind, *c)).collect::<Vec<_>>();
    let all = [of("uid", &both.uid.collisions), of("gid", &both.gid.collisions)].concat();
    let or_null = |n: Option<u32>| n.map_or("null".to_owned(), |n| n.to_string());
    let mut items: Vec<String> = all
        .iter()
        .take(MAX_COLLISIONS)
        .map(|(kind, c)| {
            let (held, moved) = (or_null(c.held_by), or_null(c.moved_to.map(|s| s.0)));
            let (id, slot) = (c.id, c.slot);
            format!("{{\"type\":\"{kind}\",\"id\":{id},\"slot\":{slot},\"heldBy\":{held},\"movedTo\":{moved}}}")
        })
        .collect();
    if all.len() > MAX_COLLISIONS {
        items.push(format!("{{\"more\":{}}}", all.len() - MAX_COLLISIONS));
    }
    format!("[{}]", items.join(","))
}

/// What became of one wanted id, for the log.
pub fn describe(kind: &str, c: &Collision) -> String {
    let mut text = match c.held_by {
        Some(held) => format!("{kind} {} belongs on slot {}, which {kind} {held} holds; ", c.id, c.slot),
        None => format!("{kind} {} has no line left in the map; ", c.id),
    };
    // Writing to a String cannot fail.
    let _ = match c.moved_to {
        Some(slot) => write!(text, "it is on slot {slot} instead"),
        None => write!(text, "it is left out"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::assign::{Wants, assign};
    use crate::map::idmap::IdMap;
    use crate::map::pool::NodeIds;
    use crate::map::ranges::Ranges;

    fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Mount { destination: destination.into(), type_: kind.into(), options, ..Default::default() }
    }

    fn namespace(kind: &str, path: &str) -> LinuxNamespace {
        LinuxNamespace { type_: kind.into(), path: path.into(), ..Default::default() }
    }

    fn container() -> Container {
        let mut c = Container { name: "app".into(), ..Default::default() };
        c.mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", &["nosuid"]),
            mount("/sys", "sysfs", &["nosuid", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro"]),
        ];
        c.linux.mut_or_insert_default().namespaces = vec![
            namespace("pid", ""),
            namespace("ipc", "/proc/7/ns/ipc"),
            namespace("network", "/run/netns/x"),
            namespace("mount", ""),
        ];
        c
    }

    fn found(c: &Container) -> Vec<(PodFs, Option<&str>)> {
        foreign_mounts(c).iter().map(|f| (f.fs, f.namespace)).collect()
    }

    #[test]
    fn mounts_of_shared_namespaces_are_foreign() {
        let mut c = container();
        let (mqueue, sysfs) = ((PodFs::Mqueue, Some("/proc/7/ns/ipc")), (PodFs::Sysfs, Some("/run/netns/x")));
        assert_eq!(found(&c), [mqueue, sysfs]);
        // A shared pid namespace, and the node's.
        c.linux.mut_or_insert_default().namespaces[0].path = "/proc/7/ns/pid".into();
        assert_eq!(found(&c), [(PodFs::Proc, Some("/proc/7/ns/pid")), mqueue, sysfs]);
        c.linux.mut_or_insert_default().namespaces.remove(0);
        assert_eq!(found(&c), [(PodFs::Proc, None), mqueue, sysfs]);
    }

    #[test]
    fn ids_of_mounts_are_found() {
        let mut c = container();
        c.mounts.push(mount("/dev/pts", "devpts", &["newinstance", "gid=5", "mode=0620", "gid=x", "uid=-1"]));
        c.mounts.push(mount("/tmp", "tmpfs", &["uid=7"]));
        assert_eq!((mount_ids(&c, "uid="), mount_ids(&c, "gid=")), (vec![7], vec![5]));
    }

    #[test]
    fn candidates_are_recognised() {
        let pod = PodSandbox::default();
        let mut c = container();
        let flags = |c: &Container| {
            let found = candidate(&pod, c);
            (found.privileged, found.user_namespace, found.user)
        };
        assert_eq!((flags(&c), network(&c)), ((false, false, None), Some("/run/netns/x")));
        c.user = Some(Default::default()).into();
        c.mounts[2] = mount("/sys", "sysfs", &["rw"]);
        c.linux.mut_or_insert_default().namespaces = vec![namespace("user", "")];
        assert_eq!((flags(&c), network(&c)), ((true, true, Some(User::default())), None));
    }

    #[test]
    fn adjustments_replace_mounts_and_annotate() {
        let node = NodeIds::new(&IdMap::parse("0 1 100").unwrap()).unwrap();
        let claims = Ranges::parse("150,250").unwrap();
        let kind =
            |primary| assign(&node, &Wants { primary: Some(primary), others: &[], optional: &[&claims] }).unwrap();
        let (uid, gid) = (kind(350), kind(0));
        let c = container();
        let sysfs = foreign_mounts(&c).remove(1);
        let both = Assignments { uid: &uid, gid: &gid };
        let adjust = adjustment("/run/x/0.user".into(), &[(sysfs, "/run/x/sysfs-1".into())], &both);
        assert_eq!(adjust.linux.namespaces, [namespace("user", "/run/x/0.user")]);
        assert_eq!(adjust.mounts[0].destination, "-/sys");
        let bind = &adjust.mounts[1];
        assert_eq!((bind.destination.as_str(), bind.source.as_str()), ("/sys", "/run/x/sysfs-1"));
        assert_eq!((bind.type_.as_str(), bind.options.join(",").as_str()), ("bind", "nosuid,ro,bind"));
        let annotation = |name: &str| adjust.annotations[&format!("{ANNOTATION}/{name}")].as_str();
        assert_eq!(
            annotation("uid-mappings"),
            r#"[{"containerID":0,"hostID":0,"size":50},{"containerID":51,"hostID":51,"size":49},{"containerID":350,"hostID":50,"size":1}]"#
        );
        assert_eq!(
            annotation("collisions"),
            r#"[{"type":"uid","id":150,"slot":50,"heldBy":350,"movedTo":null},{"type":"uid","id":250,"slot":50,"heldBy":350,"movedTo":null},{"type":"gid","id":250,"slot":50,"heldBy":150,"movedTo":null}]"#
        );
        assert_eq!(
            describe("uid", &uid.collisions[0]),
            "uid 150 belongs on slot 50, which uid 350 holds; it is left out"
        );
    }

    #[test]
    fn many_collisions_are_counted() {
        let node = NodeIds::new(&IdMap::parse("0 1 100").unwrap()).unwrap();
        let claims = Ranges::parse("1000-1999").unwrap();
        let a = assign(&node, &Wants { primary: None, others: &[], optional: &[&claims] }).unwrap();
        let json = collisions_json(&Assignments { uid: &a, gid: &a });
        // 50 slots for 1000 ids, twice.
        assert!(json.ends_with(r#",{"more":1800}]"#), "{}", &json[json.len() - 40..]);
    }
}
