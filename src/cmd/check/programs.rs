//! Other programs: which run here, which are installed, of which version.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use super::super::source::{bytes, read_or_empty};
use super::config::{self, ContainerdConfig};
use crate::map::cut;
use crate::pod::config::ANNOTATION;
use crate::pod::presence;
use crate::sys::pipe;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containerd {
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// Its version, such as v2.3.4; None: it is not installed. An error: it did not tell.
    pub version: Option<Result<String, String>>,
    /// The version of NRI that it was built with, where it says so.
    pub nri: String,
    pub supervised: bool,
    pub config_path: String,
    pub config: ContainerdConfig,
}

impl Containerd {
    pub fn gather() -> Containerd {
        let pid = presence::running("containerd");
        // Only root may look at a process of root's.
        let program = pid.map(|pid| format!("/proc/{pid}/exe")).filter(|exe| File::open(exe).is_ok());
        let program = program.or_else(|| find("containerd"));
        let line = pid.map(command_line).unwrap_or_default();
        let config_path = option_of(&line, "config", 'c').unwrap_or_else(|| "/etc/containerd/config.toml".into());
        Containerd {
            pid,
            nri: program.as_deref().and_then(|p| text_after(p, NRI_MODULE)).unwrap_or_default(),
            version: program.as_deref().map(|p| Ok(version(p, |words| words[0] == "containerd")?.1)),
            supervised: pid.is_some_and(presence::is_supervised),
            config: ContainerdConfig::parse(&read_or_empty(&config_path, config::MAX_BYTES)),
            config_path,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kubelet {
    pub pid: u32,
    pub supervised: bool,
}

/// How a Go program's build information names NRI; its version follows.
const NRI_MODULE: &str = "\ndep\tgithub.com/containerd/nri\tv";
/// Programs are searched as far as this.
const MAX_PROGRAM: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciRuntime {
    pub path: String,
    /// Its name and version, such as ("runc", "1.4.3"), or why it did not tell.
    pub version: Result<(String, String), String>,
}

impl OciRuntime {
    /// What containerd is told to use, or else runc or crun.
    pub fn gather(config: &ContainerdConfig) -> Option<OciRuntime> {
        let configured = config.binaries.first().and_then(|binary| find(binary));
        let path = configured.or_else(|| find("runc")).or_else(|| find("crun"))?;
        let version = version(&path, |words| words[1] == "version");
        Some(OciRuntime { path, version })
    }
}

/// A file in the folder that containerd starts plugins from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginFile {
    pub name: String,
    /// It can be executed, so containerd starts it.
    pub executable: bool,
    pub origin: Origin,
}

/// Whose a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    This,
    /// This program in another build.
    Ours,
    Foreign,
}

impl PluginFile {
    /// Whether containerd takes this name, `NN-NAME`. It starts no plugin at all when one has another.
    pub fn is_named(&self) -> bool {
        let (index, name) = self.name.split_at_checked(2).unwrap_or_default();
        index.bytes().all(|b| b.is_ascii_digit()) && name.starts_with('-')
    }
}

/// The plugins in a folder, by name.
pub fn plugins(folder: &str) -> Vec<PluginFile> {
    names(folder).into_iter().filter_map(|name| plugin(folder, name)).collect()
}

/// What is in a folder, sorted.
pub fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn plugin(folder: &str, name: String) -> Option<PluginFile> {
    let path = format!("{folder}/{name}");
    let meta = fs::metadata(&path).ok().filter(|meta| !meta.is_dir())?;
    let origin = if !meta.is_file() {
        Origin::Foreign
    } else if is_this(&path, meta.len()) {
        Origin::This
    } else if text_after(&path, ANNOTATION).is_some() {
        Origin::Ours
    } else {
        Origin::Foreign
    };
    Some(PluginFile { name, executable: meta.mode() & 0o111 != 0, origin })
}

fn is_this(path: &str, length: u64) -> bool {
    const THIS: &str = "/proc/self/exe";
    let is_equal = |this| bytes(path, MAX_PROGRAM).is_ok_and(|other| other == this);
    fs::metadata(THIS).is_ok_and(|meta| meta.len() == length) && bytes(THIS, MAX_PROGRAM).is_ok_and(is_equal)
}

fn command_line(pid: u32) -> Vec<String> {
    let text = read_or_empty(&format!("/proc/{pid}/cmdline"), 64 << 10);
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// `--config X`, `--config=X`, `-config X` or `-c X` among the words of a Go program.
fn option_of(words: &[String], long: &str, short: char) -> Option<String> {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        match name.split_once('=') {
            _ if name.len() == word.len() => {}
            Some((name, value)) if name == long || name == short.to_string() => return Some(value.into()),
            None if name == long || name == short.to_string() => return words.next().cloned(),
            _ => {}
        }
    }
    None
}

/// A program's path: as it is if it has a slash, else by PATH and the usual places.
pub fn find(name: &str) -> Option<String> {
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = std::env::var("PATH").unwrap_or_default() + ":" + usual;
    let candidates = if name.contains('/') {
        vec![name.to_owned()]
    } else {
        path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| format!("{dir}/{name}")).collect()
    };
    candidates.into_iter().find(|p| fs::metadata(p).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0))
}

/// The first and third word that a program prints of its version, if the words are as expected.
fn version(program: &str, expected: fn(&[&str]) -> bool) -> Result<(String, String), String> {
    let text = pipe::output(program, &["--version"]).map_err(|e| e.to_string())?;
    let words: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
    match words[..] {
        [name, _, version] if expected(&words) => Ok((cut(name), cut(version))),
        _ => Err(format!("it says {:?}", cut(text.trim()))),
    }
}

/// The word that follows a text in a program's file; None: the text is not there.
fn text_after(path: &str, text: &str) -> Option<String> {
    const WORD: usize = 40;
    let text = text.as_bytes();
    let (mut file, mut window) = (File::open(path).ok()?.take(MAX_PROGRAM), Vec::new());
    loop {
        let read = file.by_ref().take(64 << 10).read_to_end(&mut window).ok()?;
        let found = window.windows(text.len()).position(|w| w == text).map(|at| at + text.len());
        match found {
            Some(at) if read == 0 || window.len() >= at + WORD => {
                let word = window[at..].iter().take(WORD).take_while(|b| b.is_ascii_graphic());
                return Some(word.map(|b| char::from(*b)).collect());
            }
            None if read == 0 => return None,
            Some(_) => {}
            // Text and word may begin at the end of one block and end in the next.
            None => drop(window.drain(..window.len().saturating_sub(text.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::rundir::tests::Scratch;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    #[ignore = "needs root"]
    fn text_is_found_across_blocks() {
        let scratch = Scratch::new("text");
        fs::create_dir(&scratch.0).unwrap();
        let path = format!("{}/file", scratch.0);
        for before in [0, 1, (64 << 10) - 40, (64 << 10) - 20, (64 << 10) - 30, 64 << 10, 3 << 20] {
            let text = [vec![b'x'; before], NRI_MODULE.into(), b"0.12.0\th1:x".to_vec()].concat();
            fs::write(&path, text).unwrap();
            assert_eq!(text_after(&path, NRI_MODULE).as_deref(), Some("0.12.0"), "{before}");
        }
        fs::write(&path, "dep\tgithub.com/containerd/nri").unwrap();
        assert_eq!(text_after(&path, NRI_MODULE), None);
        assert_eq!(text_after("/nonexistent", NRI_MODULE), None);
    }

    #[test]
    #[ignore = "needs root"]
    fn plugins_are_told_apart() {
        let scratch = Scratch::new("plugins");
        fs::create_dir(&scratch.0).unwrap();
        assert_eq!(plugins("/nonexistent"), []);
        let put = |name: &str, content: &[u8], mode| {
            let path = format!("{}/{name}", scratch.0);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        put("00-uid-mapper", &fs::read("/proc/self/exe").unwrap(), 0o755);
        put("05-older", format!("\x7fELF {ANNOTATION}").as_bytes(), 0o755);
        put("10-topology", b"\x7fELF", 0o755);
        put("README", b"read me", 0o644);
        fs::create_dir(format!("{}/20-folder", scratch.0)).unwrap();
        let found: Vec<_> =
            plugins(&scratch.0).into_iter().map(|p| (p.is_named(), p.executable, p.origin, p.name)).collect();
        let expected = [
            (true, true, Origin::This, "00-uid-mapper".into()),
            (true, true, Origin::Ours, "05-older".into()),
            (true, true, Origin::Foreign, "10-topology".into()),
            (false, false, Origin::Foreign, "README".into()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    #[ignore = "needs root"]
    fn programs_are_found_and_asked() {
        let scratch = Scratch::new("programs");
        fs::create_dir(&scratch.0).unwrap();
        let path = format!("{}/runtime", scratch.0);
        let runtime = |script: &str| {
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            OciRuntime::gather(&ContainerdConfig { binaries: vec![path.clone()], ..ContainerdConfig::default() })
                .unwrap()
                .version
        };
        assert_eq!(runtime("echo runc version 1.4.3; echo spec: 1.3.0"), Ok(("runc".into(), "1.4.3".into())));
        assert_eq!(runtime("echo hello"), Err("it says \"hello\"".into()));
        assert_eq!(runtime("exit 2"), Err("it ended with status 2".into()));
        assert_eq!(runtime("printf '\\377\\0'"), Err("it says \"\u{fffd}\\0\"".into()));
        assert_eq!(find("/nonexistent/runc"), None);
        assert_eq!(find("no-such-program"), None);
        assert!(find("sh").unwrap().starts_with('/'));
    }

    #[test]
    fn options_of_others_are_read() {
        let found = |line: &str| option_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), "config", 'c');
        for line in
            ["containerd --config /x", "containerd -l debug -c /x", "containerd --config=/x", "containerd -c=/x"]
        {
            assert_eq!(found(line).as_deref(), Some("/x"), "{line}");
        }
        for line in ["containerd", "containerd config default", "containerd --configure /x", "containerd --config"] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
