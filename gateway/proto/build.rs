//! Compiles `trunkline.proto` without needing protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=trunkline.proto");
    let descriptors = protox::compile(["trunkline.proto"], ["."])?;
    prost_build::Config::new().bytes([".trunkline.v1"]).compile_fds(descriptors)?;
    Ok(())
}
