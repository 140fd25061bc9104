package blob

// WithoutOpenat2 has d open blobs as where there is no openat2(2).
func (d *Disk) WithoutOpenat2() *Disk {
	d.openSlowly.Store(true)
	return d
}
