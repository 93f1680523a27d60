//! The whole gateway inside a program of one's own: `cargo run --example gateway`.

use whipgate::{config::Config, gateway::Gateway};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.http.listen = "127.0.0.1:4000".parse()?;
    config.storage.data_dir = std::env::temp_dir().join("whipgate-example");
    Gateway::load(config).await?.run().await?;
    Ok(())
}
