//! User namespaces with our maps, kept alive by a bind mount of their file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use super::rundir::PodDir;
use super::{Result, Step};
use crate::map::idmap::IdMap;
use crate::sys::{file, mount, ns};

/// What one namespace maps: container ids to node ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Users.
    pub uid: IdMap,
    /// Groups.
    pub gid: IdMap,
}

/// A namespace that the runtime can join by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The file.
    pub path: String,
    /// Whether it was there already, made for another container of the pod.
    pub reused: bool,
}

/// Namespaces are counted against the user's limit (user.max_user_namespaces): one pod may not use it up.
const MAX_PER_POD: usize = 64;

/// The pod's namespace with these maps, made if it has none yet.
pub fn pinned(pod: &PodDir, maps: &Maps) -> Result<Pinned> {
    let text = describe(maps);
    for k in 0..MAX_PER_POD {
        let (map_name, pin_name) = (format!("{k}.map"), format!("{k}.user"));
        let step = || Step::Pin.on(pod.path(&pin_name));
        match file::open_at(pod.fd(), &map_name) {
            Ok(ref found) if !reads_as(found, &text).map_err(step())? => continue,
            Ok(_) if pod.holds(&pin_name, file::NSFS_MAGIC) => {
                return Ok(Pinned { path: pod.path(&pin_name), reused: true });
            }
            // Somebody was killed between writing the map and pinning the namespace.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut new = file::create_new_at(pod.fd(), &map_name).map_err(step())?;
                new.write_all(text.as_bytes()).map_err(step())?;
            }
            Err(e) => return Err(step()(e)),
        }
        match file::create_new_at(pod.fd(), &pin_name) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(step()(e)),
            _ => mount::attach(make(maps)?, pod.fd(), &pin_name).map_err(step())?,
        }
        return Ok(Pinned { path: pod.path(&pin_name), reused: false });
    }
    Err(Step::Pin.on(pod.path(""))(io::Error::other("the pod has 64 different maps")))
}

/// Makes a namespace; what is returned is its file as a detached mount, and the only thing that keeps it.
fn make(maps: &Maps) -> Result<OwnedFd> {
    let holder = held(maps)?;
    mount::clone_tree(&format!("/proc/{}/ns/user", holder.pid())).map_err(Step::Pin.on("a detached mount"))
}

/// Makes a namespace with these maps, and lets it go: whether that can be done here.
pub fn try_one(maps: &Maps) -> Result<()> {
    held(maps).map(drop)
}

/// Makes a namespace that lasts as long as what is returned.
fn held(maps: &Maps) -> Result<ns::Holder> {
    let holder = ns::Holder::new().map_err(Step::MakeNamespace.on(""))?;
    for (name, map) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
        let text = map.to_string();
        let file = File::options().write(true).open(format!("/proc/{}/{name}", holder.pid()));
        // One write(2): the kernel takes the whole map at once or not at all.
        let written = file.and_then(|mut file| file.write(text.as_bytes()));
        written.map_err(Step::WriteMap.on(format!("{:?} as {name}", text.trim_end())))?;
    }
    Ok(holder)
}

/// Both maps as text, one extent a line: `uid 0 0 1809`.
fn describe(maps: &Maps) -> String {
    let kind = |name: &str, map: &IdMap| -> String {
        map.extents().iter().map(|e| format!("{name} {} {} {}\n", e.inside, e.outside, e.count)).collect()
    };
    kind("uid", &maps.uid) + &kind("gid", &maps.gid)
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

    fn maps(uid: &str, gid: &str) -> Maps {
        Maps { uid: IdMap::parse(uid).unwrap(), gid: IdMap::parse(gid).unwrap() }
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
        let node = held(&Maps { uid: node.clone(), gid: node }).map_err(|e| e.cause)?;
        let node = File::open(format!("/proc/{}/ns/user", node.pid()))?;
        ns::tests::in_child(|| {
            ns::tests::become_root_of(node.as_fd())?;
            let maps = Maps { uid: assigned.clone(), gid: assigned.clone() };
            let holder = held(&maps).map_err(|e| e.cause)?;
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
