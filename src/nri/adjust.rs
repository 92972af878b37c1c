//! From the runtime's message to what the decision needs, and from its maps to the adjustment that the runtime applies.

use super::proto::nri::{
    Container, ContainerAdjustment, LinuxContainerAdjustment, LinuxNamespace, Mount, PodSandbox, User,
};
use crate::map::assign::{Assignment, Collision};
use crate::map::kind::{Both, Kind};
use crate::pod::config::ANNOTATION;
use crate::pod::decision::Candidate;
use crate::pod::image::ImageNames;
use crate::pod::podfs::PodFs;
use crate::sys::ns::Home;

/// More collisions than this are only counted in the annotation.
const MAX_COLLISIONS: usize = 100;

pub fn candidate<'a>(pod: &'a PodSandbox, container: &'a Container, home: &Home) -> Candidate<'a> {
    // A volume on /sys takes the place of the sysfs that a privileged container would have.
    let writable_sys = |m: &Mount| m.destination == "/sys" && !m.options.iter().any(|o| o == "ro");
    let namespaces = &container.linux.namespaces;
    Candidate {
        namespace: &pod.namespace,
        annotations: &pod.annotations,
        name: &container.name,
        privileged: container.mounts.iter().any(writable_sys),
        user_namespace: namespace(namespaces, "user").is_some(),
        // containerd gives every container its sandbox's network namespace: only the file tells whether it is the node's.
        host_network: namespace(namespaces, "network").is_none_or(|path| home.is_our_net(path)),
        process: process_ids(container.user.as_ref()),
        mounts: Both::new(|kind| mount_ids(container, kind)),
        image: ImageNames {
            name: &container.image.name,
            digests: [&container.image.digest, &container.image.config_digest],
        },
    }
}

/// The uid, and the gid before the additional gids. Empty where the runtime does not tell.
pub fn process_ids(user: Option<&User>) -> Both<Vec<u32>> {
    user.map_or_else(Both::default, |u| Both { uids: vec![u.uid], gids: [&[u.gid], &*u.additional_gids].concat() })
}

/// The ids that options of the container's mounts name with `uid=` or `gid=`, such as the 5 (tty) of its devpts: the
/// mount fails with EINVAL where the namespace has no such id.
fn mount_ids(container: &Container, kind: Kind) -> Vec<u32> {
    let option = format!("{kind}=");
    let options = container.mounts.iter().flat_map(|m| &m.options);
    options.filter_map(|o| o.strip_prefix(&option)?.parse().ok()).collect()
}

/// The path of a namespace, empty where a new one is to be made. None: it is the node's.
pub fn namespace<'a>(namespaces: &'a [LinuxNamespace], kind: &str) -> Option<&'a str> {
    namespaces.iter().find(|ns| ns.type_ == kind).map(|ns| ns.path.as_str())
}

/// A mount that the container's user namespace may not make, of a file system whose namespace it shares with its pod or
/// the node.
pub struct Foreign<'a> {
    pub mount: &'a Mount,
    pub fs: PodFs,
    /// The namespace's path; None: the node's own.
    pub namespace: Option<&'a str>,
}

pub fn foreign_mounts(container: &Container) -> impl Iterator<Item = Foreign<'_>> {
    container.mounts.iter().filter_map(|mount| {
        let fs = PodFs::of_type(&mount.type_)?;
        let namespace = namespace(&container.linux.namespaces, fs.namespace());
        // Without a path it is a new one, which will belong to the container.
        (namespace != Some("")).then_some(Foreign { mount, fs, namespace })
    })
}

/// The adjustment: the namespace, binds in place of foreign mounts (with their sources), and annotations.
pub fn adjustment(namespace: String, binds: Vec<(Foreign, String)>, maps: &Both<Assignment>) -> ContainerAdjustment {
    let mut adjust = ContainerAdjustment::new();
    let user = LinuxNamespace { type_: "user".into(), path: namespace, ..Default::default() };
    adjust.linux = Some(LinuxContainerAdjustment { namespaces: vec![user], ..Default::default() }).into();
    for (foreign, source) in binds {
        let Mount { destination, mut options, .. } = foreign.mount.clone();
        options.push("bind".into());
        // NRI removes a mount by an entry whose destination has a '-' in front.
        adjust.mounts.push(Mount { destination: format!("-{destination}"), ..Default::default() });
        adjust.mounts.push(Mount { destination, type_: "bind".into(), source, options, ..Default::default() });
    }
    let mut annotate = |name: &str, value| adjust.annotations.insert(format!("{ANNOTATION}/{name}"), value);
    for kind in Kind::BOTH {
        annotate(&format!("{kind}-mappings"), maps.of(kind).map.oci());
    }
    let collisions = collisions_json(maps);
    if collisions != "[]" {
        annotate("collisions", collisions);
    }
    adjust
}

/// `[{"type":"uid","id":7,"slot":3,"heldBy":5,"movedTo":2}, …]`: heldBy is null where the map had no line left,
/// movedTo where the id was left out. A last `{"more":N}` counts what is not listed.
fn collisions_json(maps: &Both<Assignment>) -> String {
    let all = || Kind::BOTH.into_iter().flat_map(|kind| maps.of(kind).collisions.iter().map(move |c| (kind, c)));
    let or_null = |n: Option<u32>| n.map_or("null".to_owned(), |n| n.to_string());
    let item = |(kind, c): (Kind, &Collision)| {
        let (id, slot, held, moved) = (c.id, c.slot, or_null(c.held_by), or_null(c.moved_to.map(|s| s.0)));
        format!("{{\"type\":\"{kind}\",\"id\":{id},\"slot\":{slot},\"heldBy\":{held},\"movedTo\":{moved}}}")
    };
    let mut items: Vec<String> = all().take(MAX_COLLISIONS).map(item).collect();
    let more = all().count() - items.len();
    if more > 0 {
        items.push(format!("{{\"more\":{more}}}"));
    }
    format!("[{}]", items.join(","))
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
        foreign_mounts(c).map(|f| (f.fs, f.namespace)).collect()
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
        assert_eq!((mount_ids(&c, Kind::Uid), mount_ids(&c, Kind::Gid)), (vec![7], vec![5]));
    }

    #[test]
    fn candidates_are_recognised() {
        let (pod, home) = (PodSandbox::default(), Home::open().unwrap());
        let mut c = container();
        let flags = |c: &Container| {
            let found = candidate(&pod, c, &home);
            (found.privileged, found.user_namespace, found.host_network, found.process)
        };
        assert_eq!(flags(&c), (false, false, false, Both::default()));
        c.user = Some(Default::default()).into();
        c.mounts[2] = mount("/sys", "sysfs", &["rw"]);
        let root = || Both::new(|_| vec![0]);
        c.linux.mut_or_insert_default().namespaces = vec![namespace("user", "")];
        assert_eq!(flags(&c), (true, true, true, root()));
        c.linux.mut_or_insert_default().namespaces = vec![namespace("network", "/proc/self/ns/net")];
        assert_eq!(flags(&c), (true, false, true, root()));
    }

    #[test]
    fn adjustments_replace_mounts_and_annotate() {
        let node = NodeIds::new(&IdMap::parse("0 1 100").unwrap()).unwrap();
        let claims = Ranges::parse("150,250").unwrap();
        let kind =
            |primary| assign(&node, &Wants { primary: Some(primary), others: &[], optional: &[&claims] }).unwrap();
        let both = Both { uids: kind(350), gids: kind(0) };
        let c = container();
        let sysfs = foreign_mounts(&c).nth(1).unwrap();
        let adjust = adjustment("/run/x/0.user".into(), vec![(sysfs, "/run/x/sysfs-1".into())], &both);
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
            both.uids.collisions[0].describe(Kind::Uid),
            "uid 150 belongs on slot 50, which uid 350 holds; it is left out"
        );
    }

    #[test]
    fn many_collisions_are_counted() {
        let node = NodeIds::new(&IdMap::parse("0 1 100").unwrap()).unwrap();
        let claims = Ranges::parse("1000-1999").unwrap();
        let a = assign(&node, &Wants { primary: None, others: &[], optional: &[&claims] }).unwrap();
        let json = collisions_json(&Both::new(|_| a.clone()));
        // 50 slots for 1000 ids, twice.
        assert!(json.ends_with(r#",{"more":1800}]"#), "{}", &json[json.len() - 40..]);
    }
}
