//! User namespaces with our maps, kept alive by a bind mount of their file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use super::rundir::{PodDir, or_there};
use super::{Context, Result};
use crate::map::idmap::IdMap;
use crate::map::kind::{Both, Kind};
use crate::sys::{file, mount, ns};

/// A namespace that the runtime can join by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub path: String,
    /// Whether it was there already, made for another container of the pod.
    pub reused: bool,
}

/// Namespaces are counted against the user's limit (user.max_user_namespaces): one pod may not use it up.
const MAX_PER_POD: usize = 64;

/// The pod's namespace with these maps, made if it has none yet.
pub fn pinned(pod: &PodDir, maps: &Both<IdMap>) -> Result<Pinned> {
    let text = describe(maps);
    for k in 0..MAX_PER_POD {
        let pin = format!("{k}.user");
        let path = pod.path(&pin);
        let found = find(pod, &format!("{k}.map"), &text).doing(format_args!("pin the user namespace at {path}"))?;
        let Some(found) = found else { continue };
        // Where the pin is missing, somebody was killed between writing the map and pinning the namespace.
        let reused = found && pod.holds(&pin, file::NSFS_MAGIC);
        if !reused {
            let namespace = make(maps)?;
            pin_on(pod, &pin, namespace).doing(format_args!("pin the user namespace at {path}"))?;
        }
        return Ok(Pinned { path, reused });
    }
    let why = io::Error::other("the pod has 64 different maps");
    Err(why).doing(format_args!("pin the user namespace at {}", pod.path("")))
}

/// Whether the file with this text was there, or is new. None: it has another text.
fn find(pod: &PodDir, name: &str, text: &str) -> io::Result<Option<bool>> {
    match file::open_at(pod.fd(), name) {
        Ok(found) => Ok(reads_as(&found, text)?.then_some(true)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            file::create_new_at(pod.fd(), name)?.write_all(text.as_bytes())?;
            Ok(Some(false))
        }
        Err(e) => Err(e),
    }
}

fn pin_on(pod: &PodDir, name: &str, namespace: OwnedFd) -> io::Result<()> {
    or_there(file::create_new_at(pod.fd(), name).map(drop))?;
    mount::attach(namespace, pod.fd(), name)
}

/// Makes a namespace; what is returned is its file as a detached mount, and the only thing that keeps it.
fn make(maps: &Both<IdMap>) -> Result<OwnedFd> {
    let holder = held(maps)?;
    let path = format!("/proc/{}/ns/user", holder.pid());
    mount::clone_tree(&path).doing(format_args!("make a detached mount of {path}"))
}

/// Makes a namespace that lasts as long as what is returned.
pub fn held(maps: &Both<IdMap>) -> Result<ns::Holder> {
    let holder = ns::Holder::new().doing(format_args!("make a user namespace (see user.max_user_namespaces)"))?;
    for kind in Kind::BOTH {
        let text = maps.of(kind).to_string();
        let file = File::options().write(true).open(format!("/proc/{}/{kind}_map", holder.pid()));
        // One write(2): the kernel takes the whole map at once or not at all.
        file.and_then(|mut file| file.write(text.as_bytes())).doing(format_args!(
            "write the id map (the node's root needs CAP_SETUID, CAP_SETGID and CAP_SETFCAP) {:?} as {kind}_map",
            text.trim_end()
        ))?;
    }
    Ok(holder)
}

/// Both maps as text, one extent a line: `uid 0 0 1809`.
fn describe(maps: &Both<IdMap>) -> String {
    let lines = |kind| {
        let extents = maps.of(kind).extents().iter();
        extents.map(move |e| format!("{kind} {} {} {}\n", e.inside, e.outside, e.count))
    };
    Kind::BOTH.into_iter().flat_map(lines).collect()
}

fn reads_as(found: &File, text: &str) -> io::Result<bool> {
    let mut there = Vec::with_capacity(text.len() + 1);
    found.take(text.len() as u64 + 1).read_to_end(&mut there)?;
    Ok(there == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::rundir::RunDir;
    use super::super::rundir::tests::Scratch;
    use super::*;
    use crate::map::assign::tests::{any_id, any_node, any_set};
    use crate::map::assign::{Wants, assign};
    use crate::map::idmap::Extent;
    use crate::map::pool::NodeIds;
    use proptest::prelude::*;
    use std::fs;
    use std::os::fd::AsFd;

    fn maps(uids: &str, gids: &str) -> Both<IdMap> {
        Both { uids: IdMap::parse(uids).unwrap(), gids: IdMap::parse(gids).unwrap() }
    }

    fn map_of(pid: i32, name: &str) -> IdMap {
        IdMap::parse(&fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap()).unwrap()
    }

    #[test]
    #[ignore = "needs root"]
    fn namespaces_are_pinned_and_reused() {
        let scratch = Scratch::new("userns");
        let run = RunDir::open(&scratch.0).unwrap();
        let pod = run.pod("p").unwrap();
        let (one, two) = (maps("0 0 10", "0 0 10"), maps("0 0 9\n10001 9 1", "0 0 10"));
        let first = pinned(&pod, &one).unwrap();
        assert_eq!(first, Pinned { path: pod.path("0.user"), reused: false });
        assert_eq!(pinned(&pod, &two).unwrap(), Pinned { path: pod.path("1.user"), reused: false });
        // A new instance finds them again.
        let again = RunDir::open(&scratch.0).unwrap().pod("p").unwrap();
        assert_eq!(pinned(&again, &two).unwrap(), Pinned { path: pod.path("1.user"), reused: true });
        assert!(again.holds("0.user", file::NSFS_MAGIC));
        run.remove_pod("p").unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&scratch.0), "{mounts}");
    }

    #[test]
    #[ignore = "needs root"]
    fn what_a_killed_instance_left_is_used_or_replaced() {
        let scratch = Scratch::new("killed");
        let run = RunDir::open(&scratch.0).unwrap();
        let wanted = maps("0 0 10", "0 0 10");
        // Killed after the map, and after the empty file.
        for left in [&["0.map"][..], &["0.map", "0.user"]] {
            let pod = run.pod("p").unwrap();
            for name in left {
                let text = if *name == "0.map" { describe(&wanted) } else { String::new() };
                fs::write(pod.path(name), text).unwrap();
            }
            assert_eq!(pinned(&pod, &wanted).unwrap(), Pinned { path: pod.path("0.user"), reused: false });
            assert!(pod.holds("0.user", file::NSFS_MAGIC));
            run.remove_pod("p").unwrap();
        }
        // Killed in the middle of the map: another name serves.
        let pod = run.pod("p").unwrap();
        fs::write(pod.path("0.map"), "uid 0 ").unwrap();
        assert_eq!(pinned(&pod, &wanted).unwrap().path, pod.path("1.user"));
        run.remove_pod("p").unwrap();
    }

    /// Checks against the kernel: a node with these ids, and in it a namespace with the assigned map.
    fn kernel_takes(uids: &NodeIds, assigned: &IdMap) -> io::Result<IdMap> {
        let mut outside = 100_000;
        let node: String = uids
            .lines()
            .iter()
            .map(|r| {
                let count = r.end() - r.start() + 1;
                outside += count;
                format!("{} {} {count}\n", r.start(), outside - count)
            })
            .collect();
        let node = IdMap::parse(&node).unwrap();
        let node = held(&Both::new(|_| node.clone())).map_err(|e| e.cause)?;
        let node = File::open(format!("/proc/{}/ns/user", node.pid()))?;
        ns::tests::in_child(|| {
            ns::tests::become_root_of(node.as_fd())?;
            let holder = held(&Both::new(|_| assigned.clone())).map_err(|e| e.cause)?;
            assert_eq!(map_of(holder.pid(), "uid_map"), map_of(holder.pid(), "gid_map"));
            Ok(map_of(holder.pid(), "uid_map"))
        })
    }

    #[test]
    #[ignore = "needs root"]
    fn the_kernel_refuses_what_we_think_it_refuses() {
        let node = NodeIds::new(&IdMap::parse("0 1 2048").unwrap()).unwrap();
        let wrap = [Extent { inside: 0, outside: 0, count: 2048 }, Extent { inside: 2048, outside: 0, count: 2048 }];
        let einval = Some(libc::EINVAL);
        let try_map = |extents: &[Extent]| {
            kernel_takes(&node, &IdMap::from_disjoint(extents.to_vec())).err().and_then(|e| e.raw_os_error())
        };
        assert_eq!(try_map(&wrap), einval, "two blocks on one");
        let lines = |n: u32| (0..n).map(|i| Extent { inside: i * 2, outside: i, count: 1 }).collect::<Vec<_>>();
        assert_eq!(try_map(&lines(340)), None, "340 lines");
        assert_eq!(try_map(&lines(341)), einval, "341 lines");
        let long: Vec<_> = (0..300).map(|i| Extent { inside: 1_000_000_000 + i * 2, outside: i, count: 1 }).collect();
        assert_eq!(try_map(&long), einval, "over 4095 bytes");
        // An id that the node does not have.
        assert_eq!(try_map(&[Extent { inside: 0, outside: 2048, count: 1 }]), Some(libc::EPERM));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

        #[test]
        #[ignore = "needs root"]
        fn the_kernel_takes_every_assignment(
            node in any_node(),
            primary in proptest::option::of(any_id()),
            additional in proptest::collection::vec(any_id(), 0..12),
            first in any_set(),
            second in any_set(),
        ) {
            let wants = Wants { primary, others: &additional, optional: &[&first, &second] };
            if let Ok(assignment) = assign(&node, &wants) {
                prop_assert_eq!(kernel_takes(&node, &assignment.map).unwrap(), assignment.map);
            }
        }
    }
}
