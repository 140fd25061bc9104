package blob

// A Ref is stored bytes that a row names.
type Ref struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}
