//! Names the version of the API's symbols to the linker; what carries it is in `src/api.rs`.

fn main() {
    let map = concat!(env!("CARGO_MANIFEST_DIR"), "/libsosplice.map");
    println!("cargo::rerun-if-changed={map}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,--version-script={map}");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libsosplice.so.1");
}
