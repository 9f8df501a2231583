//! Compiles the protocols of `proto/` into Rust, and into a descriptor set for gRPC reflection.
//!
//! protox compiles them in this process, so that no `protoc` is needed.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "cargo reads the output, and what is written is made anew by each build"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTO_FOLDER: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO_FOLDER}");
    let mut compiler = protox::Compiler::new([PROTO_FOLDER])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(proto_files(Path::new(PROTO_FOLDER))?)?;

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_DAEMON").is_some())
        .generate_default_stubs(true)
        // Photographs are shared with the receive buffer, not copied out of it.
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Every `.proto` file below `folder`, sorted so that the output does not depend on the disk.
fn proto_files(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
