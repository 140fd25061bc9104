package blob_test

import (
	"testing"

	"packbase/storage/blob/blobtest"
)

func TestS3(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, func(t *testing.T) blobtest.Fixture {
		server := blobtest.StartS3(t)
		return blobtest.Fixture{Store: server.Store(t), Path: server.Path, Big: 11 << 20}
	})
}
