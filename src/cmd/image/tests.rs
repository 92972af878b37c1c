//! Whole images, in each form they come in.

use super::testing::{Scratch, acl, archive, file, link, packed, pax};
use super::*;

const PASSWD: &[u8] = b"root:x:0:0::/:/bin/sh\napp:x:10001:10002::/:/bin/sh\n";

/// What a folder or archive is made of, by name.
type Files = Vec<(String, Vec<u8>)>;

fn digest(n: u32) -> String {
    format!("sha256:{n:064x}")
}

fn blob(n: u32, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{n:064x}"), bytes.into())
}

fn config(user: &str) -> String {
    format!(r#"{{"os":"linux","architecture":"amd64","config":{{"User":"{user}"}}}}"#)
}

fn manifest(config: u32, layers: &[(u32, usize)]) -> String {
    let layer = |(n, size): &(u32, usize)| format!(r#"{{"digest":"{}","size":{size}}}"#, digest(*n));
    let layers: Vec<String> = layers.iter().map(layer).collect();
    format!(r#"{{"config":{{"digest":"{}"}},"layers":[{}]}}"#, digest(config), layers.join(","))
}

/// An index of manifests: their numbers, and what else their descriptors say.
fn index(manifests: &[(u32, &str)]) -> String {
    let all: Vec<String> =
        manifests.iter().map(|(n, more)| format!(r#"{{"digest":"{}"{more}}}"#, digest(*n))).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, all.join(","))
}

fn layers() -> [Vec<u8>; 3] {
    let low = archive(&[file("etc/passwd", 0, 0, b"app:x:1:1\n"), file("bin/app", 0, 7, b"x")]);
    let middle = archive(&[file("etc/passwd", 0, 0, PASSWD), file("../up", 65_532, 65_532, &[9; 3000])]);
    let high = archive(&[file(".wh.bin", 1_000_660_000, 0, b"")]);
    [low, packed(c"gzip", &middle), packed(c"zstd", &high)]
}

fn layout() -> Files {
    let layers = layers();
    let sizes: Vec<(u32, usize)> = (10..).zip(layers.iter().map(Vec::len)).collect();
    let name = r#","annotations":{"org.opencontainers.image.ref.name":"app:1"}"#;
    let mut all = vec![
        ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".into(), index(&[(1, name)]).into()),
        blob(1, manifest(2, &sizes)),
        blob(2, config("app")),
    ];
    all.extend((10..).zip(layers).map(|(n, layer)| blob(n, layer)));
    all
}

fn docker(manifest: &str, layers: [(&str, Vec<u8>); 3]) -> Files {
    // The order of a stream that is written as it is made.
    let mut all: Files = layers.into_iter().map(|(name, layer)| (name.to_owned(), layer)).collect();
    all.extend([("c.json".into(), config("app").into()), ("manifest.json".into(), manifest.into())]);
    all
}

fn tar(files: &Files) -> Vec<u8> {
    archive(&files.iter().map(|(name, bytes)| file(name, 0, 0, bytes)).collect::<Vec<_>>())
}

fn read_tar(bytes: &[u8]) -> Result<Vec<Image>, String> {
    let scratch = Scratch::new();
    read(&scratch.write("image.tar", bytes), &mut |_, _| {})
}

fn read_folder(files: &Files) -> Result<Vec<Image>, String> {
    let scratch = Scratch::new();
    files.iter().for_each(|(name, bytes)| drop(scratch.write(name, bytes)));
    read(&scratch.0, &mut |_, _| {})
}

fn refused(files: &Files) -> String {
    let error = read_folder(files).unwrap_err();
    assert_eq!(read_tar(&tar(files)).unwrap_err(), error);
    error
}

fn app(name: &str, patterns: &[&str]) -> Image {
    let owners = |files: &[(u32, u64)]| Owners { files: files.iter().copied().collect(), unlisted: 0 };
    Image {
        name: name.into(),
        patterns: patterns.iter().map(|pattern| pattern.to_string()).collect(),
        user: "app".into(),
        uid: Some(10_001),
        gid: Some(10_002),
        ids: [
            owners(&[(0, 3), (65_532, 1), (1_000_660_000, 1)]),
            owners(&[(0, 3), (7, 1), (65_532, 1)]),
            owners(&[]),
            owners(&[]),
        ],
        passwd: vec![account("root", 0, 0, ""), account("app", 10_001, 10_002, "")],
        ..Image::default()
    }
}

fn account(name: &str, uid: u32, gid: u32, members: &str) -> Account {
    Account { name: name.into(), uid, gid, members: members.into() }
}

#[test]
fn reads_an_oci_layout_and_archive() {
    // The tag is no whole reference.
    let app = app("app:1", &[&digest(2)]);
    assert_eq!(read_folder(&layout()).unwrap(), std::slice::from_ref(&app));
    assert_eq!(read_tar(&tar(&layout())).unwrap(), std::slice::from_ref(&app));
    let backwards: Files = layout().into_iter().rev().map(|(name, bytes)| (format!("./{name}"), bytes)).collect();
    assert_eq!(read_tar(&tar(&backwards)).unwrap(), [app]);
}

#[test]
fn reads_docker_save() {
    let [low, middle, high] = layers();
    let old =
        r#"[{"Config":"c.json","RepoTags":["app:2","x/y:1"],"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}]"#;
    let files = docker(old, [("a/layer.tar", low), ("b/layer.tar", middle), ("other/layer.tar", high)]);
    let members: Vec<Vec<u8>> = files.iter().map(|(name, bytes)| file(name, 0, 0, bytes)).collect();
    let linked = archive(&[&[link("c/layer.tar", b'2', "../other/layer.tar")], &members[..]].concat());
    let references = ["docker.io/library/app:2", "docker.io/x/y:1"];
    assert_eq!(read_tar(&linked).unwrap(), [app("app:2", &references)]);
    assert_eq!(read_tar(&archive(&members)).unwrap_err(), "\"c/layer.tar\" is missing");

    let names: Vec<String> = (10..13).map(|n| blob(n, "").0).collect();
    let new = format!(r#"[{{"Config":"c.json","RepoTags":null,"Layers":["{}"]}}]"#, names.join("\",\""));
    let [low, middle, high] = layers();
    let files = docker(&new, [(&names[0], low), (&names[1], middle), (&names[2], high)]);
    assert_eq!(read_tar(&tar(&files)).unwrap(), [app("image.tar", &[])]);
    let hex = &digest(2)["sha256:".len()..];
    for name in [format!("{hex}.json"), format!("sha256:{hex}"), format!("blobs/sha256/{hex}")] {
        let named = |(old, bytes): (String, Vec<u8>)| match &*old {
            "c.json" => (name.clone(), bytes),
            "manifest.json" => (old, new.replace("c.json", &name).into()),
            _ => (old, bytes),
        };
        let files = files.clone().into_iter().map(named).collect();
        assert_eq!(read_tar(&tar(&files)).unwrap(), [app("image.tar", &[&digest(2)])]);
    }
}

/// The layout in another form: its blobs under other names.
fn flat() -> Files {
    let renamed = |(name, bytes): (String, Vec<u8>)| (name.rsplit('/').next().unwrap().to_owned(), bytes);
    let mut files: Files = layout().into_iter().filter(|(name, _)| name.starts_with("blobs/")).map(renamed).collect();
    files.push(("version".into(), b"Directory Transport Version: 1.1\n".to_vec()));
    files
}

#[test]
fn reads_a_dir_of_skopeo() {
    let read = |manifest: Files| {
        let scratch = Scratch::new();
        flat().iter().chain(&manifest).for_each(|(name, bytes)| drop(scratch.write(&format!("app/{name}"), bytes)));
        read(&scratch.0.join("app"), &mut |_, _| {})
    };
    let hex = |n: u32| format!("{n:064x}");
    let own = flat().into_iter().find(|(name, _)| *name == hex(1)).unwrap().1;
    let image = app("app", &[&digest(2)]);
    assert_eq!(read(vec![("manifest.json".into(), own.clone())]).unwrap(), std::slice::from_ref(&image));
    // Of several platforms, of which one is here.
    let list = index(&[(20, ""), (21, "")]).into();
    let one = (hex(21) + ".manifest.json", own);
    assert_eq!(read(vec![("manifest.json".into(), list), one]).unwrap(), [image]);
    let none = read(vec![("manifest.json".into(), index(&[(20, "")]).into())]).unwrap_err();
    assert_eq!(none, "the blobs of its 1 manifests are missing");
}

#[test]
fn reads_layers_of_xz_and_bzip2() {
    for program in [c"xz", c"bzip2"] {
        let [low, middle, high] = layers().map(|layer| packed(program, &layer));
        let plain = |n: usize| match n {
            0 => packed(program, &archive(&[file("a", 70_000, 5, b"")])),
            _ => archive(&[]),
        };
        assert!([low, middle, high].iter().all(|layer| !layer.is_empty()));
        let one = r#"[{"Config":"c.json","RepoTags":[],"Layers":["a","b","c"]}]"#;
        let files = docker(one, [("a", plain(0)), ("b", plain(1)), ("c", plain(2))]);
        assert_eq!(read_tar(&tar(&files)).unwrap()[0].ids[0].files, [(70_000, 1)].into());
    }
}

#[test]
fn knows_references() {
    let name = |key: &str, name: &str| format!(r#","annotations":{{"{key}":"{name}"}}"#);
    let (containerd, oci) = ("io.containerd.image.name", "org.opencontainers.image.ref.name");
    let own = digest(2);
    for (key, told, pattern) in [
        (containerd, "docker.io/library/app:1", "docker.io/library/app:1"),
        (containerd, "app:1", "docker.io/library/app:1"),
        (containerd, "bad name\\nimage *", &own),
        (oci, "localhost/app:1", "localhost/app:1"),
        (oci, "registry:5000/app@sha256:0", "registry:5000/app@sha256:0"),
        (oci, "latest", &own),
        (oci, "library/app:1", &own),
        (oci, "", &own),
    ] {
        let mut files = layout();
        files[1].1 = index(&[(1, &name(key, told))]).into();
        assert_eq!(read_folder(&files).unwrap()[0].patterns, [pattern], "{told}");
    }
    let mut files = layout();
    files[1].1 = index(&[(1, &name(containerd, "a:1")), (1, &name(oci, "x.y/b:2"))]).into();
    assert_eq!(read_folder(&files).unwrap()[0].patterns, ["docker.io/library/a:1", "x.y/b:2"]);
}

/// An image of these layers.
fn of_layers(user: &str, layers: &[&[Vec<u8>]]) -> Image {
    let layers: Vec<Vec<u8>> = layers.iter().map(|members| archive(members)).collect();
    let sizes: Vec<(u32, usize)> = (10..).zip(layers.iter().map(Vec::len)).collect();
    let mut files =
        vec![("index.json".into(), index(&[(1, "")]).into()), blob(1, manifest(2, &sizes)), blob(2, config(user))];
    files.extend((10..).zip(layers).map(|(n, layer)| blob(n, layer)));
    let [image] = read_folder(&files).unwrap().try_into().unwrap();
    image
}

#[test]
fn links_lead_to_accounts() {
    let passwd = || file("nix/passwd", 0, 0, b"app:x:10009:10009::/:/bin/sh\n");
    let group = || file("nix/group", 0, 0, b"extra:x:20002:app\n");
    for to in ["../nix/passwd", "/nix/passwd", "../etc/again"] {
        let links = [
            link("etc/passwd", b'2', to),
            link("etc/again", b'2', "../nix/passwd"),
            link("etc/group", b'1', "nix/group"),
        ];
        for layers in [vec![&[passwd(), group()][..], &links[..]], vec![&links, &[group(), passwd()]]] {
            let image = of_layers("app", &layers);
            assert_eq!(
                (image.uid, image.gid, &image.groups),
                (Some(10_009), Some(10_009), &Ranges::of(vec![20_002])),
                "{to}"
            );
            // Layers are read again, and counted once.
            assert_eq!((&image.ids[0].files, image.unknown), (&[(0, 5)].into(), vec![]));
        }
    }
    let unknown = vec!["who it runs as is not known: USER is no account of it".to_owned()];
    assert_eq!(of_layers("missing", &[&[passwd()]]).unknown, unknown);
    assert_eq!(of_layers("5:missing", &[&[passwd()]]).unknown, unknown);
    let whole = "its passwd or group is not read whole: over 4096 accounts, or too many links";
    let deep: Vec<Vec<u8>> = (0..60).map(|n| link(&format!("etc/{n}"), b'2', &format!("{}", n + 1))).collect();
    assert_eq!(of_layers("app", &[&[link("etc/passwd", b'2', "0")], &deep]).unknown, [&unknown[0], whole]);
    let many = "a:x:1:1\n".repeat(4097);
    assert_eq!(of_layers("5", &[&[file("etc/group", 0, 0, many.as_bytes())]]).unknown, [whole]);
}

#[test]
fn collects_ids_of_attributes() {
    let with = |id| {
        [pax(b'x', &[("SCHILY.xattr.system.posix_acl_access", &acl(&[(2, id), (8, id + 1)]))]), file("a", 0, 0, b"")]
    };
    let image = of_layers("", &[&with(70_000), &with(80_000)]);
    let [_, _, uids, gids] = image.ids.map(|of| of.files);
    assert_eq!((uids, gids), ([(70_000, 1), (80_000, 1)].into(), [(70_001, 1), (80_001, 1)].into()));
}

#[test]
fn layers_that_are_elsewhere() {
    let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let foreign = |kind: &str| {
        let layer = format!(r#"{{"mediaType":"{kind}","digest":"{}","size":5,"urls":["x"]}}"#, digest(9));
        let mut files = layout();
        files[2].1 = String::from_utf8(files[2].1.clone()).unwrap().replace("[{", &format!("[{layer},{{")).into();
        files
    };
    for kind in [kind, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"] {
        let image = read_folder(&foreign(kind)).unwrap().remove(0);
        assert_eq!(image.unknown, ["1 foreign layers are elsewhere: their files are not known"]);
        assert_eq!(image.ids, app("", &[]).ids);
    }
    assert_eq!(refused(&foreign("application/vnd.oci.image.layer.v1.tar")), format!("{:?} is missing", blob(9, "").0));
}

#[test]
fn reads_each_platform_once() {
    let platform = |os: &str, cpu: &str| format!(r#","platform":{{"os":"{os}","architecture":"{cpu}"}}"#);
    let (amd, arm, unknown) = (platform("linux", "amd64"), platform("linux", "arm64"), platform("unknown", "unknown"));
    let name = |name: &str| format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}"#);
    let chart = r#"{"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"},"layers":[]}"#;
    let files = vec![
        // Two tags of one image; 8 is not here, 6 says which image it is about, and 7 is no image at all.
        ("index.json".into(), index(&[(3, &name("app:1")), (3, &name("app:2")), (7, "")]).into()),
        blob(3, index(&[(4, &amd), (5, &arm), (8, &arm), (6, &unknown)])),
        blob(4, manifest(2, &[(10, 0)])),
        blob(5, manifest(9, &[(10, 0)])),
        blob(7, chart),
        blob(2, config("")),
        blob(9, config("9:nobody")),
        blob(10, ""),
    ];
    let images = read_folder(&files).unwrap();
    assert_eq!(read_tar(&tar(&files)).unwrap(), images);
    let told: Vec<_> = images.iter().map(|i| (&*i.name, i.uid, i.gid)).collect();
    assert_eq!(told, [("app:1 (linux/amd64)", Some(0), Some(0)), ("app:1 (linux/arm64)", Some(9), None)]);
}

#[test]
fn resolves_user() {
    let passwd = [account("root", 0, 5, ""), account("app", 10_001, 10_002, ""), account("7", 8, 9, "")];
    let group = [
        account("staff", 0, 50, ""),
        account("extra", 0, 20_002, "x,app"),
        account("more", 0, 51, "app,root"),
        account("own", 0, 10_002, "app"),
        account("7", 0, 60, "7"),
        account("no", 0, 61, "ap,app2"),
    ];
    for (text, uid, gid, groups) in [
        ("", Some(0), Some(5), &[51][..]),
        ("root", Some(0), Some(5), &[51]),
        ("app", Some(10_001), Some(10_002), &[51, 20_002]),
        ("10001", Some(10_001), Some(10_002), &[51, 20_002]),
        ("1000660000", Some(1_000_660_000), Some(0), &[]),
        ("7", Some(7), Some(0), &[]),
        ("8", Some(8), Some(9), &[]),
        ("app:staff", Some(10_001), Some(50), &[51, 10_002, 20_002]),
        ("app:app", Some(10_001), None, &[51, 10_002, 20_002]),
        ("7:6", Some(7), Some(6), &[]),
        (":6", Some(0), Some(6), &[5, 51]),
        ("app:", Some(10_001), Some(10_002), &[51, 20_002]),
        ("nobody", None, None, &[]),
        ("nobody:6", None, Some(6), &[]),
        ("4294967295", None, None, &[]),
        ("-1", None, None, &[]),
        ("+1", None, None, &[]),
    ] {
        assert_eq!(user(text, &passwd, &group), (uid, gid, Ranges::of(groups.to_vec())), "{text:?}");
    }
    assert_eq!(user("", &[], &[]), (Some(0), Some(0), Ranges::default()));
}

#[test]
fn refuses_hostile_indexes() {
    let only = |index: &str| refused(&vec![("index.json".into(), index.into())]);
    for bad in ["sha256:../../etc/passwd", "sha256:", "sha512:00", &digest(1)[..70], &digest(0xa).to_uppercase()] {
        let index = format!(r#"{{"manifests":[{{"digest":"{bad}"}}]}}"#);
        assert_eq!(only(&index), format!("{bad:?} is not a digest, sha256: and 64 hex digits"));
    }
    assert_eq!(only(r#"{"manifests":[{}]}"#), "a descriptor without digest");
    assert_eq!(only("{}"), "an index without manifests");
    assert_eq!(only(r#"{"manifests":[]}"#), "it holds no image");
    assert!(only(&index(&[(1, "")])).ends_with(" is missing"));
    assert_eq!(only("{"), "\"index.json\": not JSON at byte 1, \"\": a string is missing");
    let none =
        "no index.json and no manifest.json: neither an OCI layout, nor a docker save of 1.10 or later, nor a dir:";
    assert_eq!(refused(&vec![("repositories".into(), b"{}".to_vec())]), none);

    // An index of itself is passed over; a chain of others ends.
    let mut files: Files = vec![("index.json".into(), index(&[(0, "")]).into())];
    files.push(blob(0, index(&[(0, "")])));
    assert_eq!(refused(&files), "it holds no image");
    files.pop();
    files.extend((0..10).map(|n| blob(n, index(&[(n + 1, "")]))));
    assert_eq!(refused(&files), "indexes in indexes, over 4 deep");
    let many: Vec<(u32, &str)> = (0..2000).map(|n| (n, "")).collect();
    let files = vec![("index.json".into(), index(&[(5000, "")]).into()), blob(5000, index(&many))];
    assert_eq!(refused(&files), "over 1024 manifests");

    let mut files = layout();
    files.retain(|(name, _)| !name.ends_with('b'));
    // The whole digest.
    assert_eq!(refused(&files), format!("{:?} is missing", blob(11, "").0));
    let mut files = layout();
    files.iter_mut().filter(|(name, _)| name.ends_with('b')).for_each(|(_, bytes)| bytes.truncate(100));
    assert!(refused(&files).contains(" has 100 bytes, and should have "));
    let docker = |text: &str| refused(&vec![("manifest.json".into(), text.into())]);
    assert_eq!(docker("[{}]"), "manifest.json: an image without Config or Layers");
    assert_eq!(docker(r#"[{"Config":"x","Layers":[1]}]"#), "manifest.json: a layer is not a name");
    assert_eq!(docker(r#"[{"Config":"x","Layers":[]}]"#), "\"x\" is missing");
}

#[test]
fn damaged_layers_are_told() {
    let with = |bytes: Vec<u8>| {
        let size = bytes.len();
        refused(&vec![
            ("index.json".into(), index(&[(1, "")]).into()),
            blob(1, manifest(2, &[(10, size)])),
            blob(2, config("")),
            blob(10, bytes),
        ])
    };
    let noise: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
    let plain = archive(&[file("a", 1, 1, &noise)]);
    let name = format!("layer {:?}: ", blob(10, "").0);
    assert_eq!(with(plain[..200_000].to_vec()), format!("{name}cut off at byte 200000"));
    for program in [c"gzip", c"zstd"] {
        let packed = packed(program, &plain);
        let ended = format!(": {} ended with status 1", program.to_str().unwrap());
        for end in [packed.len() / 2, packed.len() - 2] {
            let error = with(packed[..end].to_vec());
            assert!(error.starts_with(&name) && error.ends_with(&ended), "{error}");
        }
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0x55;
        assert!(with(flipped).starts_with(&name));
    }
    assert_eq!(
        with(vec![7; 5000]),
        format!(
            "{name}byte 0: not a tar header, its checksum \"\\u{{7}}\\u{{7}}\\u{{7}}\\u{{7}}\\u{{7}}\\u{{7}}\\u{{7}}\\u{{7}}\" is not octal"
        )
    );
}

#[test]
fn bombs_end() {
    // 50 MB of zeros: an end mark, and no file. Behind a header: one large file.
    let zeros = packed(c"gzip", &vec![0; 50 << 20]);
    let mut large = testing::Header::new("large", b'0', 5, 5, 50 << 20).with(b"");
    large.resize(large.len() + (50 << 20), 0);
    let large = packed(c"zstd", &large);
    let files = vec![
        ("index.json".into(), index(&[(1, "")]).into()),
        blob(1, manifest(2, &[(10, zeros.len()), (11, large.len())])),
        blob(2, config("")),
        blob(10, zeros),
        blob(11, large),
    ];
    assert_eq!(read_tar(&tar(&files)).unwrap()[0].ids[0].files, [(5, 1)].into());
}

#[test]
fn a_cut_off_archive_is_refused() {
    let whole = tar(&layout());
    let scratch = Scratch::new();
    for length in (0..whole.len() - 512).step_by(512).chain([1, 511, 513, 1000, 5000, whole.len() - 513]) {
        let error = read(&scratch.write("x.tar", &whole[..length]), &mut |_, _| {}).unwrap_err();
        assert!(error.starts_with(&format!("cut off at byte {length}")), "{error}");
    }
}

#[test]
fn progress_comes_to_its_end() {
    let large = archive(&[file("a", 0, 0, &vec![1; 9 << 20])]);
    let size = large.len() as u64;
    let two = r#"[{"Config":"c.json","Layers":["l","l"]}]"#;
    let files: Files =
        vec![("l".into(), large), ("c.json".into(), config("").into()), ("manifest.json".into(), two.into())];
    let scratch = Scratch::new();
    let mut told = Vec::new();
    read(&scratch.write("x.tar", &tar(&files)), &mut |done, total| told.push((done, total))).unwrap();
    assert!(told.iter().all(|(_, total)| *total == 2 * size) && told.is_sorted(), "{told:?}");
    assert!(told.last().unwrap().0 >= 2 * size - STEP, "{told:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]
    #[test]
    fn damage_is_no_panic(changes in proptest::collection::vec((0usize..100_000, 0u8..), 1..4), end in 0usize..100_000) {
        let mut bytes = tar(&layout());
        let length = bytes.len();
        for (at, byte) in changes {
            bytes[at % length] = byte;
        }
        let _ = read_tar(&bytes);
        bytes.truncate(end % length);
        let _ = read_tar(&bytes);
    }
}

/// What GNU tar writes, and what it says that is.
#[test]
fn agrees_with_tar() {
    use std::process::Command;
    let scratch = Scratch::new();
    let output = |program: &str, arguments: &[&str]| {
        let out = Command::new(program).args(arguments).current_dir(&scratch.0).output().expect(program);
        assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let (prefixed, long) =
        (format!("tree/ustar/{}file", "folder/".repeat(20)), format!("tree/gnu/{}file", "folder/".repeat(40)));
    scratch.write("tree/small", b"x");
    scratch.write("tree/etc/passwd", PASSWD);
    scratch.write(&prefixed, &[7; 70_000]);
    scratch.write(&long, &[7; 70_000]);
    // Enough holes for blocks of the list of holes beyond the header.
    let holes = std::fs::File::create(scratch.0.join("tree/holes")).unwrap();
    for i in 0..60 {
        std::os::unix::fs::FileExt::write_at(&holes, &[1; 4096], i * 1_000_000).unwrap();
    }
    std::os::unix::fs::symlink("x".repeat(150), scratch.0.join("tree/link")).unwrap();
    std::fs::hard_link(scratch.0.join("tree/small"), scratch.0.join("tree/same")).unwrap();

    for (format, id, others) in [
        ("v7", 2_097_151, &["--exclude=link", "--exclude=gnu", "--exclude=ustar"][..]),
        ("ustar", 2_097_151, &["--exclude=link", "--exclude=gnu"]),
        ("oldgnu", MAX_ID, &["--sparse"]),
        ("gnu", MAX_ID, &["--sparse"]),
        ("posix", MAX_ID, &["--sparse", "--sparse-version=0.0"]),
        ("posix", MAX_ID, &["--sparse", "--sparse-version=0.1"]),
        ("posix", MAX_ID, &["--sparse", "--sparse-version=1.0"]),
    ] {
        let (format_option, owner) = (format!("--format={format}"), format!("--owner=:{id}"));
        let options = [&[&*format_option, &*owner, "--group=:70000", "--numeric-owner"], others].concat();
        output("tar", &[&["-cf", "layer.tar"], &options[..], &["-C", "tree", "."]].concat());
        if others.contains(&"--sparse") {
            // The holes are really left out.
            assert!(std::fs::metadata(scratch.0.join("layer.tar")).unwrap().len() < 5_000_000);
        }
        let listing = output("tar", &["-tvf", "layer.tar", "--numeric-owner"]);
        assert!(
            listing.lines().count() >= 6 && listing.lines().all(|l| l.contains(&format!(" {id}/70000 "))),
            "{listing}"
        );
        for program in ["cat", "gzip", "zstd"] {
            let packed = output("sh", &["-c", &format!("{program} <layer.tar >l && ls -l l | wc -l")]);
            assert_eq!(packed.trim(), "1");
            scratch.write("c.json", config("app").as_bytes());
            scratch.write("manifest.json", br#"[{"Config":"c.json","RepoTags":["t"],"Layers":["l"]}]"#);
            output("tar", &["-cf", "image.tar", "manifest.json", "c.json", "l"]);
            let images = read(&scratch.0.join("image.tar"), &mut |_, _| {}).unwrap();
            let files = listing.lines().count() as u64;
            assert_eq!(images[0].ids[0].files, [(id, files)].into(), "{format} {program}");
            assert_eq!(images[0].ids[1].files, [(70_000, files)].into());
            assert_eq!((images[0].uid, images[0].gid), (Some(10_001), Some(10_002)));
        }
    }
}
