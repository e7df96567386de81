//! The options of calls over TLS.

use std::path::PathBuf;

use clap::Args;

/// The files of a call over TLS.
#[derive(Debug, Default, Args)]
pub(super) struct TlsFiles {
    /// PEM file with the authorities that sign the node's certificate [default: those of the system]
    #[arg(long, global = true, value_name = "FILE", display_order = 93)]
    pub(super) ca: Option<PathBuf>,
    /// PEM file with the certificate that is shown to the node
    #[arg(long, global = true, value_name = "FILE", requires = "key", display_order = 94)]
    pub(super) cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long, global = true, value_name = "FILE", requires = "cert", display_order = 95)]
    pub(super) key: Option<PathBuf>,
}
