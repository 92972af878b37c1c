//! Generates the message types from proto/ with the pure-Rust parser, and leaves tables that nobody reads out of the file.

use std::env;
use std::fs;
use std::path::PathBuf;

/// What is changed in the generated readers: what they have, and what they get.
const CHANGES: [(&str, &str); 4] = [
    // A field that proto/ does not list is kept in a map, for as long as the message. Most of a container's description
    // is of no use here, and keeping it was most of the work.
    (
        "::protobuf::rt::read_unknown_or_skip_group(tag, is, self.special_fields.mut_unknown_fields())?",
        "::protobuf::rt::skip_field_for_tag(tag, is)?",
    ),
    // An empty entry of a list takes 2 bytes in a message and up to 200 in memory: entries are counted.
    (".push(is.read_message()?)", ".push({ crate::nri::entries::count()?; is.read_message()? })"),
    (".push(is.read_string()?)", ".push({ crate::nri::entries::count()?; is.read_string()? })"),
    (".insert(key, value)", ".insert({ crate::nri::entries::count()?; key }, value)"),
];

fn main() {
    println!("cargo:rerun-if-changed=proto");
    // Tests need the tables: a failing one unwinds.
    let is = |name, value| env::var(name).is_ok_and(|set| set == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        println!("cargo:rerun-if-changed=.cargo/no-unwind.ld");
        println!("cargo:rustc-link-arg-bins=-T{folder}/.cargo/no-unwind.ld");
    }
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .inputs(["proto/ttrpc.proto", "proto/nri.proto"])
        .customize(protobuf_codegen::Customize::default().lite_runtime(true).gen_mod_rs(true))
        .cargo_out_dir("proto")
        .run_from_script();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("proto");
    for name in ["ttrpc.rs", "nri.rs"] {
        let mut text = fs::read_to_string(out.join(name)).expect("the generator has written it");
        for (has, gets) in CHANGES {
            assert!(name != "nri.rs" || text.contains(has), "the generator no longer writes {has}");
            text = text.replace(has, gets);
        }
        fs::write(out.join(name), text).expect("OUT_DIR is writable");
    }
}
