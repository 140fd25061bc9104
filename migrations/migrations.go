// Package migrations holds the schema's history, one file a step.
//
// Files are named NNNN_what.sql, numbered from 0001 without gaps, and applied
// in order, each in one transaction. They use unqualified names, go forward
// only, and leave a schema on which the previous release still runs, and
// starts. Where programs that know fewer than N steps must not run any more, a
// step ends with UPDATE schema_migrations SET needs = N.
package migrations

import "embed"

// FS holds the migration files.
//
//go:embed *.sql
var FS embed.FS
