//! `detrim-bindgen IN.wasm OUT_DIR`: what `wasm-bindgen --target web` does, as a library call. Installing the whole command line
//! of wasm-bindgen compiles for minutes and has to match the version of the library by hand; here Cargo.lock holds it.

use anyhow::{Context, bail};
use wasm_bindgen_cli_support::Bindgen;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else { bail!("usage: detrim-bindgen IN.wasm OUT_DIR") };
    Bindgen::new()
        .input_path(input)
        .out_name("detrim")
        .web(true)?
        .typescript(true)
        .omit_default_module_path(false)
        .generate(output)
        .with_context(|| format!("writing the JavaScript of {input} to {output}"))
}
