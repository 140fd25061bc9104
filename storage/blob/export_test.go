package blob

import "time"

// WithoutOpenat2 has d open blobs as where there is no openat2(2).
func (d *Disk) WithoutOpenat2() *Disk {
	d.openSlowly.Store(true)
	return d
}

// Age has what is known of a blob be an hour old.
func (c *Checked) Age(digest string) {
	v, _ := c.known.Get(digest)
	v.at = v.at.Add(-time.Hour)
	c.known.Add(digest, v)
}
