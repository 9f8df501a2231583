//! What can go wrong before or during a derivative.

/// Why a derivative cannot be taken. All but [`GradError::Values`] are found when the sweep is
/// compiled, before any work starts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GradError {
    /// An operator on the way has neither a rule nor the mark "no derivative by nature".
    #[error(
        "operator {operator} of node `{node}` has no gradient rule{reason}; choose a layer behind \
         it, or a method that needs no gradient (eigen-cam, score-cam, ablation-cam)"
    )]
    Missing {
        /// The operator's name in the table's spelling, for example `Conv` or `Gather`.
        operator: String,
        /// The graph's name of the node.
        node: String,
        /// Empty, or `: ` and what about this use of the operator is not covered.
        reason: String,
    },
    /// An outlet that does not exist in the graph, or a shape that is not concrete.
    #[error("the graph cannot be differentiated at `{node}`: {reason}")]
    Graph {
        /// The graph's name of the node, or its number where it has none.
        node: String,
        /// What is wrong there.
        reason: String,
    },
    /// The forward values or the seed do not fit the compiled sweep.
    #[error("forward values do not fit the derivative: {0}")]
    Values(String),
}
