//! The findings about an account and its machine, before there is a node.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::super::plan;
use super::super::source::read_or_empty as read;
use super::super::subid::{self, Subordinate, User};
use super::facts::{Limits, controllers, effective, is_machine};
use super::kernel::{Kernel, errno_text};
use super::node::judge_controllers;
use super::programs::find;
use super::{Finding, shell};
use crate::map::chain::Band;
use crate::map::kind::{Both, Kind};
use crate::pod::presence;
use crate::sys::{pipe, probe};

#[derive(Clone, Debug)]
pub struct Facts {
    /// We are in the machine's own user namespace.
    machine: bool,
    /// Who runs this, as the machine knows him.
    user: Result<User, String>,
    uid: u32,
    /// `$USER`, by which Podman looks ids up.
    login: String,
    /// What /etc/nsswitch.conf has for subid, if that is not the files.
    source: Option<String>,
    subordinate: Both<Subordinate>,
    /// Where ids begin that nobody has.
    free: u64,
    tools: [Tool; 2],
    /// What they say to the planned map; None: they cannot be asked.
    mapped: Option<Result<(), String>>,
    limits: Limits,
    kernel: Kernel,
    supervised: bool,
    cgroup2: bool,
    /// The controllers that systemd has delegated to the user; None: there is no user manager.
    controllers: Option<String>,
    /// `$XDG_RUNTIME_DIR`, and whether files can be made there.
    runtime_dir: (String, bool),
    /// The user's processes go on when he logs out.
    lingers: bool,
    /// Modules that are neither loaded nor built in.
    missing: Vec<&'static str>,
    /// `net.ipv4.conf.default.rp_filter` is 1.
    strict: bool,
    fuse: bool,
    /// Whether they answer, and are rootless; None: not asked.
    engines: Vec<(&'static str, Option<Result<bool, String>>)>,
    /// How programs are installed here, and as part of what newuidmap is.
    packages: (&'static str, &'static str),
}

/// A program that has to have rights of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    name: &'static str,
    path: Option<String>,
    privileged: bool,
}

/// How many subordinate ids a node should have.
const WANTED: u64 = 2048;
/// With fewer, so many ids share a slot that it hurts.
const FEW: u64 = 1000;
/// As whom the kernel shows an owner whom a user namespace lacks.
const NOBODY: u32 = 65534;
const MAX_FILE: u64 = 16 << 20;
/// What Kubernetes' networks need.
const MODULES: [&str; 6] = ["br_netfilter", "ip_tables", "ip6_tables", "iptable_nat", "ip6table_nat", "vxlan"];
/// Container engines, with what shows that one is rootless.
const ENGINES: [(&str, &str, &str); 3] = [
    ("podman", "{{.Host.Security.Rootless}}", "true"),
    ("docker", "{{.SecurityOptions}}", "name=rootless"),
    ("nerdctl", "{{.SecurityOptions}}", "name=rootless"),
];
/// Distributions by ID or ID_LIKE of os-release(5), how they install, and the package of newuidmap and getsubids.
const PACKAGES: [(&str, &str, &str); 5] = [
    ("debian", "sudo apt-get install", "uidmap"),
    ("fedora", "sudo dnf install", "shadow-utils"),
    ("suse", "sudo zypper install", "shadow"),
    ("arch", "sudo pacman -S", "shadow"),
    ("alpine", "sudo apk add", "shadow-uidmap"),
];

impl Facts {
    pub fn gather() -> Facts {
        let (uid, gid) = (effective("Uid:").unwrap_or(0), effective("Gid:").unwrap_or(0));
        let env = |name| std::env::var(name).unwrap_or_default();
        let user = subid::user(&uid.to_string());
        let of = |kind| user.as_ref().map_or_else(|_| Subordinate::default(), |u| Subordinate::gather(kind, u));
        let subordinate = Both::new(of);
        let (machine, tools) = (is_machine(), ["newuidmap", "newgidmap"]);
        let tools = tools.map(|name| Tool::gather(name, !machine));
        let slice = format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
        let root = controllers();
        let delegated = if uid == 0 { root.clone() } else { fs::read_to_string(&slice).ok() };
        let dir = env("XDG_RUNTIME_DIR");
        // A file without a name, which is gone at once.
        let trial = File::options().write(true).custom_flags(libc::O_TMPFILE).open(&dir);
        let linger = user.as_ref().map_or(String::new(), |(name, ..)| format!("/var/lib/systemd/linger/{name}"));
        let kernel = Kernel::gather(Some((uid, gid)));
        let mapped = user.as_ref().ok().filter(|_| uid != 0).and_then(|u| try_map(u, &subordinate, &tools));
        let engines = ENGINES.iter().filter(|(name, ..)| find(name).is_some());
        // Else Podman's first process would keep a map of one id, also when there are more.
        let asked = mapped == Some(Ok(()));
        Facts {
            source: subid::source(&read("/etc/nsswitch.conf", MAX_FILE)),
            free: free(&(read("/etc/subuid", MAX_FILE) + "\n" + &read("/etc/subgid", MAX_FILE)), [uid, gid]),
            mapped,
            limits: Limits::gather(),
            supervised: presence::we_are_supervised(),
            cgroup2: root.is_some(),
            controllers: delegated.map(|list| list.trim().to_owned()),
            runtime_dir: (dir, trial.is_ok()),
            lingers: uid == 0
                || !fs::exists("/run/systemd/system").unwrap_or(false)
                || fs::exists(linger).unwrap_or(false),
            missing: missing(&kernel.release),
            strict: read("/proc/sys/net/ipv4/conf/default/rp_filter", 16) == "1\n",
            fuse: File::options().read(true).write(true).open("/dev/fuse").is_ok(),
            engines: engines.map(|e| (e.0, asked.then(|| ask(e)))).collect(),
            packages: packages(&read("/etc/os-release", MAX_FILE)),
            login: env("USER"),
            machine,
            user,
            uid,
            subordinate,
            tools,
            kernel,
        }
    }

    fn enable_linger(&self) -> String {
        format!("sudo loginctl enable-linger {}", shell(self.user.as_ref().map_or("USER", |(name, ..)| name)))
    }
}

impl Tool {
    fn gather(name: &'static str, in_node: bool) -> Tool {
        let path = find(name);
        // In a node, the machine's root may read as nobody.
        let roots = |uid| uid == 0 || in_node && uid == NOBODY;
        let set_uid = |path: &str| fs::metadata(path).is_ok_and(|m| m.mode() & 0o4000 != 0 && roots(m.uid()));
        let privileged = path.as_deref().is_some_and(|path| set_uid(path) || probe::has_file_capabilities(path));
        Tool { name, path, privileged }
    }
}

/// Makes a user namespace with the map that plan gives this user; None: there is no such map, or nobody to ask.
fn try_map(user: &User, ids: &Both<Subordinate>, tools: &[Tool; 2]) -> Option<Result<(), String>> {
    let mut commands = Vec::new();
    for (kind, tool) in Kind::BOTH.into_iter().zip(tools) {
        let granted = ids.of(kind).clone().granted(&user.0, subid::own(user, kind));
        let lines = plan::unasked(&granted.ok()?).ok()?;
        commands.push((tool.path.as_deref().filter(|_| tool.privileged)?, lines));
    }
    let map = |pid: u32, (path, lines): &(&str, Vec<Band>)| {
        let words = |all, b: &Band| format!("{all} {} {} {}", b.firsts[0], b.firsts[2], b.count);
        let words = lines.iter().fold(pid.to_string(), words);
        match pipe::run(path, &words.split(' ').collect::<Vec<_>>(), true) {
            Ok((_, 0)) => Ok(()),
            Ok((said, code)) => Err(format!("{} (status {code})", said.trim())),
            Err(e) => Err(format!("{path}: {e}")),
        }
    };
    probe::beside_namespace(|pid| commands.iter().try_for_each(|command| map(pid, command))).ok()
}

/// The first place for the ids of a node that overlaps nobody's, these two themselves among them.
fn free(files: &str, own: [u32; 2]) -> u64 {
    let mut taken = own.map(|id| (id.into(), 1)).to_vec();
    taken.extend(subid::entries(files).filter_map(|(.., pair)| pair.ok()));
    let mut place = 100_000;
    while let Some((first, count)) = taken.iter().find(|(f, c)| *f < place + WANTED && f.saturating_add(*c) > place) {
        place = first.saturating_add(*count);
    }
    place
}

/// Which of the modules are neither loaded nor built in, as far as it can be known.
fn missing(release: &str) -> Vec<&'static str> {
    let built_in = read(&format!("/lib/modules/{release}/modules.builtin"), MAX_FILE);
    let is_there = |name: &&str| {
        fs::exists(format!("/sys/module/{name}")).unwrap_or(false) || built_in.contains(&format!("/{name}.ko"))
    };
    let has_modules = fs::exists("/proc/modules").unwrap_or(false);
    MODULES.into_iter().filter(|name| has_modules && !is_there(name)).collect()
}

/// Whether an engine is rootless; an error is the last that it said.
fn ask((name, format, rootless): &(&str, &str, &str)) -> Result<bool, String> {
    match pipe::run(name, &["info", "--format", format], true) {
        Ok((said, 0)) => Ok(said.contains(rootless)),
        Ok((said, _)) => Err(said.trim().lines().last().unwrap_or_default().to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn packages(os_release: &str) -> (&'static str, &'static str) {
    let ids = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    let words: Vec<&str> = ids.flat_map(|ids| ids.trim_matches('"').split(' ')).collect();
    let known = PACKAGES.iter().find(|(id, ..)| words.contains(id));
    known.map_or(("# install", "newuidmap and newgidmap"), |(_, install, uidmap)| (install, uidmap))
}

/// Gathers and judges.
pub fn check() -> Vec<Finding> {
    findings(&Facts::gather())
}

fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all =
        judge!(facts: place, ids, newuidmap, namespaces, kernel, others, cgroup, session, network, fuse, engine);
    all.retain(|f: &Finding| !f.found.is_empty());
    all
}

/// Says something only where this is not the machine.
fn place(f: &mut Finding, facts: &Facts) {
    if !facts.machine {
        f.warn(
            "this is inside a user namespace, perhaps a node: what follows is about a node to be started in here",
            "uid-nri-plugin check --host  # on the host\nuid-nri-plugin check  # in a node",
        );
    }
}

fn ids(f: &mut Finding, facts: &Facts) {
    if facts.uid == 0 {
        let remedy = "su - USER -c 'uid-nri-plugin check --host'";
        f.warn("this is root: ask as the user who is to start the node", remedy);
    }
    let name = match &facts.user {
        Ok((name, ..)) => name,
        Err(why) => return f.problem(why, &format!("getent passwd {}", facts.uid)),
    };
    let files = Kind::BOTH.map(|kind| (format!("/etc/sub{kind}"), facts.subordinate.of(kind)));
    for (path, found) in &files {
        let edit = format!("sudoedit {path}");
        for line in &found.ignored {
            f.warn(&format!("{line}: newuidmap passes over it"), &edit);
        }
        match (&found.refused, &facts.source) {
            (Some(why), Some(_)) => f.warn(why, &format!("getsubids {}", shell(name))),
            (Some(why), None) => f.problem(&format!("{why}: newuidmap refuses it"), &edit),
            (None, _) => {}
        }
    }
    if files.iter().any(|(_, found)| found.refused.is_some()) {
        return;
    }
    if !["", name].contains(&facts.login.as_str()) {
        let text = format!("USER is {}, and Podman takes that one's ids", facts.login);
        f.warn(&text, &format!("export USER={}", shell(name)));
    }
    let (uids, gids) = (facts.subordinate.uids.count(), facts.subordinate.gids.count());
    let text = format!("{uids} subordinate uids and {gids} gids for {name}");
    let line = shell(&format!("{name}:{}:{WANTED}", facts.free));
    let add = |(path, _): &(String, _)| match &facts.source {
        Some(source) => format!("# have {source} give more of them (nsswitch.conf)\n"),
        None => format!("echo {line} | sudo tee -a {path}\n"),
    };
    let lines: String = files.iter().filter(|(_, of)| of.count() < FEW && of.ignored.is_empty()).map(add).collect();
    match uids.min(gids) {
        _ if facts.uid == 0 => f.note(&text),
        0 => f.problem(&text, &lines),
        n if n < FEW => f.warn(&format!("{text}: few"), &lines),
        _ => f.note(&text),
    }
}

fn newuidmap(f: &mut Finding, facts: &Facts) {
    let (install, package) = facts.packages;
    for tool in &facts.tools {
        match &tool.path {
            None => f.problem(&format!("{} is not installed", tool.name), &format!("{install} {package}")),
            Some(path) if !tool.privileged => {
                let text = format!("{path} is neither set-uid root nor has capabilities");
                f.problem(&text, &format!("sudo chmod u+s {}", shell(path)));
            }
            Some(path) => f.note(path),
        }
    }
    match &facts.mapped {
        Some(Ok(())) => f.note("they make the planned map"),
        Some(Err(said)) => f.problem(
            said,
            "uid-nri-plugin plan  # the map that was tried\nid; findmnt -T /usr/bin  # its group, and nosuid",
        ),
        None => {}
    }
}

fn namespaces(f: &mut Finding, facts: &Facts) {
    match (facts.kernel.namespaces, facts.limits.most) {
        (0, Some(most)) if most < FEW => {
            let remedy = "sudo sysctl -w user.max_user_namespaces=65536";
            f.warn(&format!("only {most} user namespaces are allowed"), remedy);
        }
        (0, Some(most)) => f.note(&format!("this user makes user namespaces (limit {most})")),
        (0, None) => f.note("this user makes user namespaces"),
        (e, _) => {
            let text = format!("this user makes no user namespaces: {}", errno_text(e));
            f.problem(&text, facts.limits.remedy());
        }
    }
}

fn kernel(f: &mut Finding, facts: &Facts) {
    facts.kernel.judge(f);
}

fn others(f: &mut Finding, facts: &Facts) {
    facts.kernel.judge_listener(f, facts.supervised);
    f.note_if_empty("no seccomp listener in the way");
}

fn cgroup(f: &mut Finding, facts: &Facts) {
    match (&facts.controllers, facts.cgroup2) {
        (_, false) => {
            let args = "systemd.unified_cgroup_hierarchy=1";
            let remedy = match facts.packages.0 {
                "sudo dnf install" => format!("sudo grubby --update-kernel=ALL --args={args}"),
                _ => format!("# boot with {args} (kernel's command line)"),
            };
            f.problem("not version 2", &remedy);
        }
        (None, true) => f.warn("no systemd user manager, which delegates controllers", &facts.enable_linger()),
        (Some(list), true) => judge_controllers(f, list),
    }
}

fn session(f: &mut Finding, facts: &Facts) {
    let (dir, is_writable) = &facts.runtime_dir;
    if *is_writable {
        f.note(&format!("XDG_RUNTIME_DIR {dir}"));
    } else {
        let what = if dir.is_empty() { "not set" } else { "nothing that can be written to" };
        let remedy = format!("export XDG_RUNTIME_DIR=/run/user/{}  # logging in makes it, su not", facts.uid);
        f.warn(&format!("XDG_RUNTIME_DIR is {what}"), &remedy);
    }
    if !facts.lingers {
        f.warn("no linger: the node ends when you log out", &facts.enable_linger());
    }
}

fn network(f: &mut Finding, facts: &Facts) {
    if !facts.missing.is_empty() {
        let list = facts.missing.join(" ");
        let keep = format!("printf '%s\\n' {list} | sudo tee /etc/modules-load.d/usernetes.conf");
        f.warn(&format!("not loaded: {list}"), &format!("sudo modprobe -a {list}\n{keep}"));
    }
    if facts.strict {
        let keep = "echo net.ipv4.conf.default.rp_filter=2 | sudo tee /etc/sysctl.d/99-usernetes.conf";
        let text = "net.ipv4.conf.default.rp_filter is 1: packets between nodes are dropped";
        f.warn(text, &format!("{keep}\nsudo sysctl --system"));
    }
    f.note_if_empty("modules and rp_filter are as Kubernetes' networks need them");
}

fn fuse(f: &mut Finding, facts: &Facts) {
    match (facts.fuse, facts.kernel.overlay) {
        (true, _) => f.note("/dev/fuse"),
        (false, 0) => f.note("no /dev/fuse, and none needed: overlay works"),
        (false, _) => f.warn("no /dev/fuse for fuse-overlayfs", "sudo modprobe fuse && sudo chmod 666 /dev/fuse"),
    }
}

fn engine(f: &mut Finding, facts: &Facts) {
    let works = facts.engines.iter().any(|(_, is)| matches!(is, Some(Ok(true)) | None));
    for (name, rootless) in &facts.engines {
        f.note(&match rootless {
            Some(Ok(true)) => format!("{name}, rootless"),
            Some(Ok(false)) => format!("{name}, not rootless"),
            Some(Err(why)) if !works => format!("{name} does not answer: {why}"),
            Some(Err(_)) => format!("{name} does not answer"),
            None => (*name).to_owned(),
        });
    }
    match facts.engines[..] {
        [] => f.problem("no podman, docker or nerdctl to run the node", &format!("{} podman", facts.packages.0)),
        [(name, _), ..] if !works => f.problem("no rootless engine answers", &format!("{name} info")),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
