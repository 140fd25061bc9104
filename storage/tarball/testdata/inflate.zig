//! Reads the tarballs "0", "1" ... of the working directory as "zig fetch" does, and prints for each its
//! number and the SHA-256 of all names, link targets and contents.
//!
//! std.tar, the inflate below it and their buffers are those of unpackResource and unpackTarball in
//! src/Package/Fetch.zig (lib/compiler/Maker/Fetch.zig from 0.17 on). What is left out of std.tar's
//! pipeToFileSystem (extract from 0.16 on) only writes files.

const std = @import("std");
const minor = @import("builtin").zig_version.minor;
const Sha256 = std.crypto.hash.sha2.Sha256;

pub const main = if (minor < 15) main13 else if (minor < 16) main15 else main16;

fn main13() !void {
    var i: u32 = 0;
    while (true) : (i += 1) {
        var name: [16]u8 = undefined;
        const file = std.fs.cwd().openFile(try std.fmt.bufPrint(&name, "{d}", .{i}), .{}) catch return;
        defer file.close();
        var buffered = std.io.bufferedReaderSize(std.crypto.tls.max_ciphertext_record_len, file.reader());
        var inflate = std.compress.gzip.decompressor(buffered.reader());
        var paths: [2][4096]u8 = undefined;
        var it = std.tar.iterator(inflate.reader(), .{ .file_name_buffer = &paths[0], .link_name_buffer = &paths[1] });
        var sha: Sha256 = Sha256.init(.{});
        while (try it.next()) |entry| {
            sha.update(entry.name);
            sha.update(entry.link_name);
            if (entry.kind != .file) continue;
            var buffer: [1024]u8 = undefined;
            while (true) {
                const n = try entry.reader().readAll(&buffer);
                sha.update(buffer[0..n]);
                if (n < buffer.len) break;
            }
        }
        print(i, &sha);
    }
}

fn main15() !void {
    var i: u32 = 0;
    while (true) : (i += 1) {
        var name: [16]u8 = undefined;
        const file = std.fs.cwd().openFile(try std.fmt.bufPrint(&name, "{d}", .{i}), .{}) catch return;
        defer file.close();
        // The second buffer is the smallest that may be, so that its end is met everywhere in the stream.
        var buffer: [65516 + 16]u8 = undefined;
        for ([_][]u8{ buffer[0..65516], buffer[65516..] }) |b| {
            try file.seekTo(0);
            var reader = file.reader(b);
            try read(i, &reader.interface);
        }
    }
}

fn main16(init: std.process.Init) !void {
    var i: u32 = 0;
    while (true) : (i += 1) {
        var name: [16]u8 = undefined;
        const file = std.Io.Dir.cwd().openFile(init.io, try std.fmt.bufPrint(&name, "{d}", .{i}), .{}) catch return;
        defer file.close(init.io);
        var buffer: [65516 + 16]u8 = undefined;
        for ([_][]u8{ buffer[0..65516], buffer[65516..] }) |b| {
            var reader = file.reader(init.io, b);
            try read(i, &reader.interface);
        }
    }
}

fn read(i: u32, in: *std.Io.Reader) !void {
    var window: [std.compress.flate.max_window_len]u8 = undefined;
    var inflate: std.compress.flate.Decompress = .init(in, .gzip, &window);
    var paths: [2][4096]u8 = undefined;
    var it: std.tar.Iterator = .init(&inflate.reader, .{ .file_name_buffer = &paths[0], .link_name_buffer = &paths[1] });
    var sha: Sha256 = .init(.{});
    while (try it.next()) |entry| {
        sha.update(entry.name);
        sha.update(entry.link_name);
        if (entry.kind != .file) continue;
        var buffer: [1024]u8 = undefined;
        var out: std.Io.Writer.Hashing(Sha256) = .initHasher(sha, &buffer);
        try it.streamRemaining(entry, &out.writer);
        try out.writer.flush();
        sha = out.hasher;
    }
    print(i, &sha);
}

fn print(i: u32, sha: *Sha256) void {
    std.debug.print("{d} {s}\n", .{ i, std.fmt.bytesToHex(sha.finalResult(), .lower) });
}
