//! Generates the message types from proto/ with the pure-Rust parser.

fn main() {
    println!("cargo:rerun-if-changed=proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .inputs(["proto/ttrpc.proto", "proto/nri.proto"])
        .customize(protobuf_codegen::Customize::default().lite_runtime(true).gen_mod_rs(true))
        .cargo_out_dir("proto")
        .run_from_script();
}
