// Register tells a witness, litewitness, of a log: its own tool for that cannot be built from public modules.
//
//	register DATABASE ORIGIN KEY...
package main

import (
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

func main() {
	if err := register(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "register:", err)
		os.Exit(1)
	}
}

// register adds a log with its keys. The tables are those that litewitness makes when it starts.
func register(file, origin string, keys []string) error {
	db, err := sqlite.OpenConn(file)
	if err != nil {
		return err
	}
	defer db.Close()
	const empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" // SHA-256 of nothing: the empty tree
	err = sqlitex.Execute(db, `INSERT OR IGNORE INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)`, &sqlitex.ExecOptions{Args: []any{origin, empty}})
	for _, key := range keys {
		if err == nil {
			err = sqlitex.Execute(db, `INSERT INTO key (origin, key) VALUES (?, ?)`, &sqlitex.ExecOptions{Args: []any{origin, key}})
		}
	}
	return err
}
