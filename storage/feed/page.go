package feed

// Where a packbase serves its feed, and under it the blobs that it names, by
// digest.
const (
	ChangesPath = "/api/changes"
	BlobsPath   = "/api/blobs/"
)

// A Page is what is answered there.
type Page struct {
	Changes []Change `json:"changes"`
	Head    Head     `json:"head"`
}

// A Head is the newest change there is; zero if there is none.
type Head struct {
	Chain string `json:"chain"`
	Seq   int64  `json:"seq"`
}
