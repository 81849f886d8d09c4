//! Why a workload's file was not understood: always with the file, the line and the field.

use std::path::PathBuf;

use thiserror::Error;

use crate::workloads::SizeError;

/// Why a workload's file was not understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkloadFileError {
    /// It could not be read.
    #[error("cannot read the workload {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        error: std::io::Error,
    },
    /// A line that is no TOML, and has no field that could be named.
    #[error("{}, line {line} (`{text}`): {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is in that line.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field that there is not, or is not of the right type, or is written wrongly.
    #[error("{}, line {line}, field `{field}`: {message}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field's value is not a value for it.
    #[error("{}, line {line}, field `{field}`: '{value}' is not {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The size that a field gives contradicts the workload, or another number.
    #[error("{}, line {line}, field `{field}`", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// The contradiction.
        #[source]
        error: SizeError,
    },
}
