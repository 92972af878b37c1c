//! Images: whose files they hold, and as whom they run. Nothing is unpacked to disk, and nothing is checked against
//! its digest.

mod blocks;
mod index;
mod layer;
mod store;
mod tar;
#[cfg(test)]
mod testing;

use std::path::Path;
use std::rc::Rc;

pub use layer::{Account, Owners};

use crate::map::{MAX_ID, cut};
use index::Parts;
use layer::{Layer, Table};
use store::Store;

/// So many different owners are listed, of one image and of all.
const MAX_LISTED: usize = 1 << 16;
const MAX_LISTED_ALL: usize = 1 << 20;
/// What is known of a layer is kept for the next image that has it, if it is this small, and for so many layers.
const SMALL: usize = 1024;
const MAX_KEPT: usize = 256;
/// Progress is told each time so many bytes are behind.
const STEP: u64 = 4 << 20;

/// The ids of one image, of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its tag or reference, else the file's name; with the platform where several images have the name.
    pub name: String,
    /// USER as written; may be empty.
    pub user: String,
    /// The user that it runs as. None: the image has no account of this name.
    pub uid: Option<u32>,
    /// The group that it runs as. None: the image has no account or group of this name.
    pub gid: Option<u32>,
    /// Owners of files, of all layers: what a layer above hides is unpacked all the same.
    pub uids: Owners,
    /// Groups of files.
    pub gids: Owners,
    /// The first 4096 entries of /etc/passwd; none if it is a link.
    pub passwd: Vec<Account>,
}

/// Reads all images of an OCI layout, an OCI archive or an archive of `docker save`. `progress` is told, now and then,
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
    let (mut uids, mut gids) = (Owners::default(), Owners::default());
    let (mut passwd, mut group) = (Table::Untouched, Table::Untouched);
    for (blob, _) in &parts.layers {
        let layer = layers.get(blob, tick)?;
        uids.add(&layer.uids, layers.most);
        gids.add(&layer.gids, layers.most);
        passwd = passwd.under(&layer.passwd);
        group = group.under(&layer.group);
    }
    let (uid, gid) = user(&parts.user, passwd.accounts(), group.accounts());
    let passwd = passwd.accounts().to_vec();
    Ok(Image { name, user: parts.user.clone(), uid, gid, uids, gids, passwd })
}

/// As whom USER says to run: `user`, `user:group`, each a name or number.
fn user(user: &str, passwd: &[Account], group: &[Account]) -> (Option<u32>, Option<u32>) {
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
    (uid, gid)
}

/// What was found out about layers: images often have the same ones.
struct Layers {
    store: Store,
    most: usize,
    kept: Vec<(String, u64, Rc<Layer>)>,
}

impl Layers {
    fn get(&mut self, name: &str, tick: &mut dyn FnMut(u64)) -> Result<Rc<Layer>, String> {
        if let Some((_, size, layer)) = self.kept.iter().find(|(kept, ..)| kept == name) {
            tick(*size);
            return Ok(layer.clone());
        }
        let mut passed = 0;
        let mut read = || {
            let blob = self.store.find(name)?.ok_or("it is missing")?;
            let layer = layer::read(&blob, self.most, &mut |more| {
                passed += more;
                tick(more);
            })?;
            Ok::<_, String>((blob.size, Rc::new(layer)))
        };
        let (size, layer) = read().map_err(|e| format!("layer {:?}: {e}", cut(name)))?;
        // A tar may end before its blob does.
        tick(size.saturating_sub(passed));
        let accounts = layer.passwd.accounts().len() + layer.group.accounts().len();
        if self.kept.len() < MAX_KEPT && layer.uids.files.len() + layer.gids.files.len() + accounts <= SMALL {
            self.kept.push((name.to_owned(), size, layer.clone()));
        }
        Ok(layer)
    }
}

#[cfg(test)]
mod tests;
