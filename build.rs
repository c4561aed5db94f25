//! Compiles `proto/` with protox, so that no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

#[expect(clippy::disallowed_methods, reason = "this is how cargo names the output folder")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["symbolon/v1/decision_record.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The schema of the decision record; a test reads records back through it.
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    Ok(())
}
