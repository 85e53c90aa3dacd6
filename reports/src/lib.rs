//! result files, statistics, decision rules and the HTML report.
