package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/francescobianco/packbase/storage/fault"
	"github.com/francescobianco/packbase/storage/jobs"
)

// An outcome that the database refuses is tried three times; while it is away
// the tries do not count, and a claim that is lost ends them.
func TestDeliver(t *testing.T) {
	t.Parallel()
	refused, away := errors.New("it breaks a rule"), fmt.Errorf("end job: %w", fault.ErrAway)
	tests := []struct {
		name    string
		answers []error // the last one for ever
		tries   int
		want    error
	}{
		{"recorded", []error{nil}, 1, nil},
		{"refused", []error{refused}, 3, refused},
		{"refused twice", []error{refused, refused, nil}, 3, nil},
		{"away", []error{away, away, away, away, nil}, 5, nil},
		{"away and refused", []error{refused, away, refused, away, refused}, 5, refused},
		{"lost", []error{away, fmt.Errorf("end job: %w", jobs.ErrLost)}, 2, jobs.ErrLost},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tries := 0
			err := new(Worker).deliver(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) error {
				tries++
				return tt.answers[min(tries, len(tt.answers))-1]
			})
			if tries != tt.tries || !errors.Is(err, tt.want) {
				t.Errorf("%d tries, %v, want %d, %v", tries, err, tt.tries, tt.want)
			}
		})
	}
}
