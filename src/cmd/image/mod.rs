//! Images: whose files they hold, and as whom they run. Nothing is unpacked to disk, and nothing is checked against
//! its digest.

mod blocks;
mod index;
mod layer;
mod store;
mod tar;
#[cfg(test)]
mod testing;
mod tree;

use std::path::Path;
use std::rc::Rc;

pub use layer::{Account, Owners};

use crate::map::MAX_ID;
use crate::map::ranges::Ranges;
use index::Parts;
use layer::Layer;
use store::Store;
use tree::Tree;

/// So many different owners are listed, of one image and of all.
const MAX_LISTED: usize = 1 << 16;
const MAX_LISTED_ALL: usize = 1 << 20;
/// What is known of a layer is kept for the next image that has it, if it is this small, and for so many layers.
const SMALL: usize = 1024;
const MAX_KEPT: usize = 256;
/// Progress is told each time so many bytes are behind.
const STEP: u64 = 4 << 20;

/// Where accounts are.
const TABLES: [&str; 2] = ["etc/passwd", "etc/group"];
/// How often an image's layers are read again because links lead to other paths.
const MAX_AGAIN: usize = 16;

/// The ids of one image, of one platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Its tag or reference, else the file's name; with the platform where several images have the name.
    pub name: String,
    /// What containerd calls it, as far as that is told: references, or the digest of its configuration.
    pub patterns: Vec<String>,
    /// USER as written; may be empty.
    pub user: String,
    /// The user that it runs as. None: the image has no account of this name.
    pub uid: Option<u32>,
    /// The group that it runs as. None: the image has no account or group of this name.
    pub gid: Option<u32>,
    /// Its other groups: those that /etc/group puts the user into, and where USER names a group, which kubelet does not
    /// follow, also the account's.
    pub groups: Ranges,
    /// Owners and groups of files, of all layers, since what a layer above hides is unpacked all the same. And the uids and
    /// gids that ACLs and file capabilities name.
    pub ids: [Owners; 4],
    /// The first 4096 entries of /etc/passwd.
    pub passwd: Vec<Account>,
    /// The first 4096 entries of /etc/group.
    pub group: Vec<Account>,
    /// What is not known of it, each a sentence.
    pub unknown: Vec<String>,
}

/// Reads all images of an OCI layout, an OCI archive, an archive of `docker save` or a `dir:`. `progress` is told, now and then,
/// how many bytes of the layers are behind, and how many they are together. An error is one line without the path.
pub fn read(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Image>, String> {
    let store = Store::open(path)?;
    let images = index::read(&store)?;
    let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let names: Vec<String> = images.iter().map(|parts| name(parts, &images, &file)).collect();
    let total = images.iter().flat_map(|parts| &parts.layers).fold(0u64, |sum, (_, size)| sum.saturating_add(*size));
    let most = MAX_LISTED.min(MAX_LISTED_ALL / images.len().max(1));
    let mut layers = Layers { store, most, kept: Vec::new() };
    let (mut done, mut told) = (0, 0);
    let mut tick = |more: u64| {
        done = u64::saturating_add(done, more);
        if done - told >= STEP {
            told = done;
            progress(done, total);
        }
    };
    images.iter().zip(names).map(|(parts, name)| image(parts, name, &mut layers, &mut tick)).collect()
}

/// What to call an image among the others.
fn name(parts: &Parts, all: &[Parts], file: &str) -> String {
    let name = if parts.name.is_empty() { file } else { &parts.name };
    let alone = all.iter().filter(|other| other.name == parts.name).count() == 1;
    if alone || parts.platform.is_empty() { name.to_owned() } else { format!("{name} ({})", parts.platform) }
}

/// Puts an image's layers together.
fn image(parts: &Parts, name: String, layers: &mut Layers, tick: &mut dyn FnMut(u64)) -> Result<Image, String> {
    let mut watched = TABLES.map(str::to_owned).to_vec();
    let (mut tick, mut silent) = (tick, |_| {});
    loop {
        let mut image = Image { name: name.clone(), user: parts.user.clone(), ..Image::default() };
        let mut tree = Tree::default();
        for (blob, _) in &parts.layers {
            let layer = layers.get(blob, &watched, tick)?;
            for (all, of) in image.ids.iter_mut().zip(&layer.ids) {
                all.add(of, layers.most);
            }
            tree.put(&layer);
        }
        let tables = TABLES.map(|path| tree.file(path, &watched));
        if watched.len() < MAX_AGAIN && tables.iter().any(Result::is_err) {
            tick = &mut silent;
            watched.extend(tables.into_iter().filter_map(Result::err));
            continue;
        }
        let found = tables.iter().all(Result::is_ok);
        let [passwd, group] = tables.map(Result::unwrap_or_default);
        let ((passwd, all_passwd), (group, all_group)) = (layer::accounts(passwd, false), layer::accounts(group, true));
        (image.uid, image.gid, image.groups) = user(&image.user, &passwd, &group);
        (image.passwd, image.group, image.patterns) = (passwd, group, parts.patterns.clone());
        let unlisted = image.ids.iter().fold(0, |most, of| of.unlisted.max(most));
        let unknown = &mut image.unknown;
        if parts.foreign > 0 {
            unknown.push(format!("{} foreign layers are elsewhere: their files are not known", parts.foreign));
        }
        if image.uid.is_none() || image.gid.is_none() {
            unknown.push("who it runs as is not known: USER is no account of it".into());
        }
        if unlisted > 0 {
            unknown.push(format!("{unlisted} files with yet other owners"));
        }
        if !(found && all_passwd && all_group) {
            unknown.push("its passwd or group is not read whole: over 4096 accounts, or too many links".into());
        }
        return Ok(image);
    }
}

/// As whom USER says to run: `user`, `user:group`, each a name or number. And in which other groups.
fn user(user: &str, passwd: &[Account], group: &[Account]) -> (Option<u32>, Option<u32>, Ranges) {
    let number = |text: &str| text.parse().ok().filter(|id| *id <= MAX_ID && !text.starts_with('+'));
    let (user, of_group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let account = match number(user) {
        Some(uid) => passwd.iter().find(|a| a.uid == uid),
        None => passwd.iter().find(|a| a.name == user),
    };
    let uid = number(user).or(account.map(|a| a.uid));
    let gid = match of_group {
        "" => account.map(|a| a.gid).or(uid.map(|_| 0)),
        name => number(name).or_else(|| group.iter().find(|g| g.name == name).map(|g| g.gid)),
    };
    // containerd leaves out the group that has the user's name.
    let is_in = |g: &&Account| account.is_some_and(|a| a.name != g.name && g.members.split(',').any(|m| m == a.name));
    let others = group.iter().filter(is_in).map(|g| g.gid).chain(account.map(|a| a.gid));
    let others = Ranges::of(others.filter(|other| Some(*other) != gid).collect());
    (uid, gid, others)
}

/// What was found out about layers: images often have the same ones.
struct Layers {
    store: Store,
    most: usize,
    kept: Vec<(String, u64, Rc<Layer>)>,
}

impl Layers {
    fn get(&mut self, name: &str, watched: &[String], tick: &mut dyn FnMut(u64)) -> Result<Rc<Layer>, String> {
        let usual = watched.len() == TABLES.len();
        if let Some((_, size, layer)) = self.kept.iter().find(|(kept, ..)| usual && kept == name) {
            tick(*size);
            return Ok(layer.clone());
        }
        let mut passed = 0;
        let mut read = || {
            let blob = self.store.find(name)?.ok_or("it is missing")?;
            let layer = layer::read(&blob, watched, self.most, &mut |more| {
                passed += more;
                tick(more);
            })?;
            Ok::<_, String>((blob.size, Rc::new(layer)))
        };
        let (size, layer) = read().map_err(|e| format!("layer {}: {e}", store::quoted(name)))?;
        // A tar may end before its blob does.
        tick(size.saturating_sub(passed));
        let ids: usize = layer.ids.iter().map(|of| of.files.len()).sum();
        let lengths =
            layer.nodes.iter().map(|(_, node)| if let tree::Node::File(text) = node { text.len() } else { 0 });
        if usual && self.kept.len() < MAX_KEPT && ids + layer.hides.len() + lengths.sum::<usize>() / 32 <= SMALL {
            self.kept.push((name.to_owned(), size, layer.clone()));
        }
        Ok(layer)
    }
}

#[cfg(test)]
mod tests;
