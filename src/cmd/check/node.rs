//! The findings about a node, from inside it.

use super::facts::{Facts, OLD_FOLDER, SPARE, folder, is_machine};
use super::kernel::errno_text;
use super::programs::Origin;
use super::{Finding, State, shell};
use crate::map::cut;
use crate::map::kind::Both;
use crate::map::pool::NodeIds;
use crate::pod::config::{Inject, PluginConfig};
use crate::pod::features::{RuntimeFeatures, major_minor};
use crate::pod::presence;

/// What the stock pause image runs as, user and group.
const PAUSE: u32 = 65535;
/// Debian's nobody and nogroup.
const NOBODY: u32 = 65534;
/// What supervises a whole node, and lies outside the volumes that a node keeps.
const NODE: &str = "\
# in the node's Dockerfile:
# COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/
# ENTRYPOINT [\"uid-nri-plugin\", \"node\", \"--\", ... as it was]
";

/// Gathers and judges.
pub fn check() -> Vec<Finding> {
    if is_machine() && presence::running("kubelet").is_none() {
        let mut f = Finding::new("node");
        f.problem("this is no node, but the machine itself", "uid-nri-plugin check --host");
        return vec![f];
    }
    findings(&Facts::gather())
}

fn findings(facts: &Facts) -> Vec<Finding> {
    judge!(facts: ids, root, sandboxes, kernel, containerd, kubelet, plugin, runtime, others, journald, cgroup)
}

/// Which line is to be added to /etc/subuid can only be told where that file is.
const GET_IDS: &str = "uid-nri-plugin check --host  # on the host: how to get ids";

fn ids(f: &mut Finding, facts: &Facts) {
    let Both { uids, gids } = match &facts.ids {
        Err(e) => return f.problem(e, "podman run --uidmap 0:0:2048 --gidmap 0:0:2048 IMAGE  # on the host"),
        Ok(ids) => ids,
    };
    let text = |ids: &NodeIds| format!("{}: a pool of {}", ids.ids().listed(16), ids.pool());
    let same = uids == gids;
    f.note(&if same { text(uids) } else { format!("uids {}; gids {}", text(uids), text(gids)) });
    match (uids.pool().min(gids.pool()), facts.containerd.supervised) {
        (1, false) => f.problem("nobody but root has a slot", GET_IDS),
        (1, true) => f.warn("every other id is folded to root", GET_IDS),
        _ if facts.needs_nothing() => f.note("nothing is needed"),
        _ if uids.contains(NOBODY) && gids.contains(NOBODY) => {}
        _ => judge_nobody(f, facts),
    }
}

/// The node lacks an id that programs of Debian's compare with what they see.
fn judge_nobody(f: &mut Finding, facts: &Facts) {
    let (path, text) = &facts.drop_in;
    let config = PluginConfig::parse(text).unwrap_or_default();
    let claimed = config.defaults.claims.all(|ids| ids.contains(NOBODY));
    let all = config.inject == Inject::All;
    if all && claimed && facts.acting.is_some() {
        return f.note("65534 is missing, but inject = all gives it to containers");
    }
    let path = shell(path);
    let is_set = text.lines().any(|line| line.split_once('=').is_some_and(|(key, _)| key.trim() == "inject"));
    let set = match (claimed, is_set) {
        (false, _) => "# set inject = all, and add 65534 to claim-uids and claim-gids".to_owned(),
        (true, true) => format!("sed -i 's/^\\s*inject\\s*=.*/inject = all/' {path}"),
        (true, false) => format!("mkdir -p /etc/nri/conf.d; echo 'inject = all' >>{path}"),
    };
    f.warn(
        "65534 is missing: in pods, Debian's sshd (permanently_set_uid: egid incorrect) and apt (Could not switch \
         group) fail",
        &format!(
            "uid-nri-plugin plan  # on the host, where the map can be chosen
# else in the node; containers lose NET_ADMIN and NET_RAW by it:
{set}
{RESTART}
# or for one pod: annotation uid-mapper.noderesource.dev: inject=always"
        ),
    );
}

/// What a user namespace starts with; the limits of those around it count then, and cannot be seen.
const NO_LIMIT: u64 = i32::MAX as u64;

/// What making user namespaces takes, and their bits (`linux/capability.h`).
const CAPABILITIES: [(&str, u64); 4] = [("SETGID", 6), ("SETUID", 7), ("SYS_ADMIN", 21), ("SETFCAP", 31)];

fn root(f: &mut Finding, facts: &Facts) {
    if !facts.root {
        let again = format!("sudo {} check", shell(&facts.this));
        return f.problem("this is not the node's root: what follows is what this user can do", &again);
    }
    let missing = CAPABILITIES.iter().filter(|(_, bit)| facts.capabilities >> bit & 1 == 0);
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let remedy = format!("podman run --cap-add={} IMAGE  # on the host", missing.join(","));
        f.problem(&format!("root lacks CAP_{}", missing.join(", CAP_")), &remedy);
    }
    if facts.setgroups_denied {
        f.problem("setgroups is denied: the node has no subordinate groups", GET_IDS);
    }
    let raise = "sysctl -w user.max_user_namespaces=65536";
    match (&facts.namespace, facts.limits.most) {
        _ if facts.ids.is_err() || !missing.is_empty() => {}
        (Err((libc::ENOSPC, what)), Some(0..SPARE)) => f.problem(what, raise),
        (Err((libc::ENOSPC, what)), _) => f.problem(what, &format!("sudo {raise}  # on the host")),
        (Err((_, what)), _) => f.problem(what, facts.limits.remedy()),
        (Ok(()), Some(most)) if most < facts.pinned.saturating_add(SPARE) => {
            let text = format!("only {most} user namespaces are allowed, {} are in use for pods", facts.pinned);
            f.warn(&text, raise);
        }
        (Ok(()), Some(most)) if most < NO_LIMIT => f.note(&format!("makes and maps user namespaces (limit {most})")),
        (Ok(()), _) => f.note("makes and maps user namespaces"),
    }
}

fn sandboxes(f: &mut Finding, facts: &Facts) {
    let Ok(Both { uids, gids }) = &facts.ids else {
        return f.warn("not known without ids", "uid-nri-plugin plan  # on the host");
    };
    match (uids.contains(PAUSE), gids.contains(PAUSE), facts.containerd.supervised) {
        (true, true, _) => f.note("the pause image's id 65535 is in the node's map"),
        (.., true) => f.note("the pause image's id 65535 is folded by supervise"),
        _ => {
            let low = uids.pool().saturating_sub(4);
            let map = |kind| format!("--{kind}map 0:0:{low} --{kind}map 65532:{low}:4");
            let remedy = match uids == gids && uids.ids().iter().count() == 1 && low >= 1000 {
                true => format!("podman run {} {} IMAGE", map("uid"), map("gid")),
                false => "uid-nri-plugin plan".into(),
            };
            f.problem(
                "the stock pause image's id 65535 is neither in the node's map nor folded by supervise: no pod starts",
                &format!("{remedy}  # on the host\n# or, where the map cannot be chosen,\n{NODE}"),
            );
        }
    }
}

fn kernel(f: &mut Finding, facts: &Facts) {
    facts.kernel.judge(f);
    if facts.kernel.namespaces > 0 && facts.root {
        let text = format!("no mount namespaces: {}", errno_text(facts.kernel.namespaces));
        f.problem(&text, "podman run --privileged IMAGE  # on the host");
    }
}

const RESTART: &str = "systemctl restart containerd";

/// A node's programs are those of its image.
const NEWER: &str = "# take a node image with containerd 2.3 and runc 1.2 or later";

fn containerd(f: &mut Finding, facts: &Facts) {
    let c = &facts.containerd;
    let version = match &c.version {
        None => return f.problem("containerd is not installed", NEWER),
        Some(Err(e)) => return f.warn(&format!("its version is not known: {e}"), "containerd --version"),
        Some(Ok(version)) => version,
    };
    f.note(&if c.nri.is_empty() { version.clone() } else { format!("{version} (NRI {})", c.nri) });
    if c.supervised {
        f.note("under supervise");
    }
    let runtime = RuntimeFeatures::new("containerd", version, &c.nri);
    match (runtime.takes_namespaces, runtime.tells_user) {
        _ if facts.needs_nothing() => {}
        (true, true) => f.note("namespaces can be adjusted"),
        (true, false) => f.warn("does not tell who a container runs as (2.3): only annotated ids work", NEWER),
        (false, _) if c.supervised => f.warn("takes no namespaces from plugins (2.2): ids are folded only", NEWER),
        (false, _) => f.problem("takes no namespaces from plugins (2.2)", NEWER),
    }
    if let (Some(root), libc::EXDEV) = (&facts.tmpfs, facts.kernel.replaced) {
        let text = format!("its root, {root}, is a tmpfs, where containers cannot replace folders of an image (EXDEV)");
        f.warn(&text, "# keep it on a disk, or boot a kernel of 6.6 or later on the host");
    }
    if c.pid.is_none() {
        f.problem("it does not run: no pod starts", "systemctl start containerd");
    }
}

/// What is to be said of a path that a volume has: it is filled from the image when it is new, and never again.
fn kept(facts: &Facts, path: &str) -> String {
    let of = |at| format!("; {at} is a volume: a newer image does not change it");
    facts.volume(path).map(of).unwrap_or_default()
}

fn kubelet(f: &mut Finding, facts: &Facts) {
    let Some(kubelet) = facts.kubelet else { return f.note("none runs here") };
    f.note(&format!("pid {}", kubelet.pid));
    if kubelet.supervised {
        f.note("under supervise");
    } else if !facts.needs_nothing() {
        let text = "not under supervise: pods with an unmapped runAsUser and a service account token do not start";
        let this = shell(&facts.this);
        f.problem(
            &format!("{text}{}", kept(facts, "/etc/systemd/system")),
            &format!(
                "{NODE}# or, where the entrypoint has to stay, a drop-in in the node:
d=/etc/systemd/system/kubelet.service.d; mkdir -p $d
c=$(systemctl cat kubelet | sed -n 's/^ExecStart=//p' | tail -n 1)
printf '[Service]\\nExecStart=\\nExecStart=%s supervise -- %s\\n' {this} \"$c\" >$d/20-supervise.conf
systemctl daemon-reload
systemctl restart kubelet"
            ),
        );
    }
}

fn plugin(f: &mut Finding, facts: &Facts) {
    let c = &facts.containerd;
    if facts.needs_nothing() {
        return f.note("not needed");
    }
    let (folder, this, config) = (folder(c), shell(&facts.this), shell(&c.config_path));
    let kept = kept(facts, folder);
    match facts.plugins.iter().find(|p| p.origin != Origin::Foreign) {
        Some(p) if !p.executable => {
            let remedy = format!("chmod 755 {}\n{RESTART}", shell(&format!("{folder}/{}", p.name)));
            f.problem(&format!("{folder}/{} is not executable", p.name), &remedy);
        }
        Some(p) if p.origin == Origin::Ours => {
            let remedy = format!("install -m755 {this} {}\n{RESTART}", shell(&format!("{folder}/{}", p.name)));
            let text = format!("{folder}/{} is of another version than this program, {}", p.name, facts.this);
            f.warn(&(text + &kept), &remedy);
        }
        Some(p) => f.note(&format!("{folder}/{}", p.name)),
        None if facts.acting.is_some() => f.note(&format!("none in {folder}, and none needed there")),
        None => {
            let (state, only) = match c.supervised {
                true => (State::Warning, ": ids are folded only"),
                false => (State::Problem, ""),
            };
            let node = if kept.is_empty() { String::new() } else { format!("{NODE}# or, into the volume:\n") };
            let install = format!("install -Dm755 {this} {}", shell(&format!("{folder}/00-uid-mapper")));
            f.fault(state, &format!("not in {folder}{only}{kept}"), &format!("{node}{install}\n{RESTART}"));
        }
    }
    let (path, text) = &facts.drop_in;
    let is_before = |least| matches!(&c.version, Some(Ok(v)) if major_minor(v).is_some_and(|v| v < least));
    match PluginConfig::parse(text) {
        Err(e) => f.problem(&format!("{path}: {e}"), &format!("cat -n {}", shell(path))),
        Ok(config) if !config.images.is_empty() && is_before((2, 4)) => f.warn(
            "image lines have no effect: this containerd does not tell a container's image (2.4)",
            "# annotate pods instead: uid-mapper.noderesource.dev: claim-uids=...",
        ),
        Ok(_) => {}
    }
    if let Some(name) = &facts.old_plugin {
        let remedy = format!("rm {}", shell(&format!("{OLD_FOLDER}/{name}")));
        f.warn(&format!("{OLD_FOLDER}/{name} is where NRI 0.1 looked for it"), &remedy);
    }
    match (c.config.disable, facts.nri_socket) {
        (Some(true), _) => {
            let script = "'/nri.v1.nri/,/^ *\\[/s/disable *= *true/disable = false/'";
            f.problem("NRI is disabled", &format!("sed -i {script} {config}\n{RESTART}"));
        }
        // As in containerd 1.7.
        (None, _) if is_before((2, 0)) => {
            let text = "'[plugins.\"io.containerd.nri.v1.nri\"]\\n  disable = false\\n'";
            f.problem("NRI is disabled by default", &format!("printf {text} >>{config}\n{RESTART}"));
        }
        (_, false) if c.pid.is_some() && !c.config.no_connections && facts.root => {
            f.problem("NRI's socket is not there", RESTART)
        }
        _ => {}
    }
    match (facts.acting, c.pid) {
        (Some(pid), _) => f.note(&format!("pid {pid} acts")),
        (None, Some(_)) if f.remedy.is_empty() && facts.root => {
            f.warn("no instance acts", &format!("{RESTART}\njournalctl -t uid-nri-plugin -n 20"))
        }
        _ => {}
    }
}

fn runtime(f: &mut Finding, facts: &Facts) {
    let Some(runtime) = &facts.runtime else { return f.problem("neither runc nor crun is installed", NEWER) };
    let (name, version) = match &runtime.version {
        Ok(version) => version,
        Err(e) => {
            let text = format!("the version of {} is not known: {e}", runtime.path);
            return f.warn(&text, &format!("{} --version", shell(&runtime.path)));
        }
    };
    f.note(&format!("{name} {version}"));
    // crun: 1.8.1 was seen to join a namespace and take its map.
    match (name.as_str(), major_minor(version)) {
        ("runc", Some(v)) if v < (1, 2) => f.problem("takes no map from a namespace that it joins (1.2)", NEWER),
        ("crun", Some(v)) if v < (1, 8) => f.warn("older than what was tried (1.8)", "crun --version"),
        ("runc" | "crun", Some(_)) => f.note("takes the map of a namespace that it joins"),
        _ => f.warn("is not known to take the map of a namespace that it joins", NEWER),
    }
}

fn others(f: &mut Finding, facts: &Facts) {
    let folder = folder(&facts.containerd);
    let ours = facts.plugins.iter().filter(|p| p.origin != Origin::Foreign && p.executable && p.is_named());
    for p in ours.skip(1) {
        let remedy = format!("rm {}", shell(&format!("{folder}/{}", p.name)));
        f.warn(&format!("{}, another copy, stands by", p.name), &remedy);
    }
    for p in facts.plugins.iter().filter(|p| p.executable) {
        let off = format!("chmod -x {}", shell(&format!("{folder}/{}", p.name)));
        if !p.is_named() {
            let text = format!("{:?} is no plugin's name: containerd starts none in this folder", cut(&p.name));
            f.problem(&text, &format!("{off}\n{RESTART}"));
        } else if p.origin == Origin::Foreign {
            let text = format!("{}, another plugin: it may not adjust namespaces or /sys", cut(&p.name));
            f.warn(&text, &format!("{off}  # if it does\n{RESTART}"));
        }
    }
    if facts.containerd.config.refuses_namespaces {
        let script = "'s/\\(reject_namespace_adjustment *= *\\)true/\\1false/'";
        let remedy = format!("sed -i {script} {}\n{RESTART}", shell(&facts.containerd.config_path));
        f.problem("default_validator refuses adjusted namespaces", &remedy);
    }
    facts.kernel.judge_listener(f, facts.supervised);
    f.note_if_empty("no other plugin, validator or seccomp listener in the way");
}

fn journald(f: &mut Finding, facts: &Facts) {
    match facts.journald {
        true => f.note("takes messages: journalctl -t uid-nri-plugin"),
        false => f.warn(
            "no /run/systemd/journal/socket: what a launched plugin says is lost",
            "systemctl start systemd-journald.socket systemd-journald",
        ),
    }
}

fn cgroup(f: &mut Finding, facts: &Facts) {
    match &facts.controllers {
        None => f.problem("not version 2", "uid-nri-plugin check --host  # on the host: how it becomes that"),
        Some(list) => judge_controllers(f, list),
    }
}

/// Which of those that kubelet needs are delegated.
pub fn judge_controllers(f: &mut Finding, list: &str) {
    let missing = ["cpu", "memory", "pids"].into_iter().filter(|c| !list.split(' ').any(|there| there == *c));
    match missing.collect::<Vec<_>>()[..] {
        [] => f.note("version 2 with cpu, memory and pids"),
        ref missing => f.warn(&format!("version 2 without {}", missing.join(", ")), DELEGATE),
    }
}

/// How systemd gives users their controllers.
const DELEGATE: &str = "\
# on the host, as an administrator; then log in again
sudo mkdir -p /etc/systemd/system/user@.service.d
printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf
sudo systemctl daemon-reload";

#[cfg(test)]
mod tests;
