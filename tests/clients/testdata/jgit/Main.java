import java.io.File;
import org.eclipse.jgit.api.CloneCommand;
import org.eclipse.jgit.api.FetchCommand;
import org.eclipse.jgit.api.Git;
import org.eclipse.jgit.lib.ObjectId;
import org.eclipse.jgit.transport.RefSpec;
import org.eclipse.jgit.transport.TagOpt;
import org.eclipse.jgit.transport.URIish;

/** JGit as a client of the matrix. clients_test.go says what the arguments are. */
class Main {
	public static void main(String[] args) {
		try {
			run(args);
		} catch (Exception e) {
			Throwable cause = e;
			while (cause.getCause() != null) {
				cause = cause.getCause();
			}
			System.err.println(cause);
			System.exit(1);
		}
	}

	static void run(String[] args) throws Exception {
		switch (args[0]) {
			case "list" -> list(args[1]);
			case "clone" -> cloneOf(args[1], args[2]).call().close();
			case "depth" -> cloneOf(args[1], args[2]).setDepth(1).call().close();
			case "tag" -> cloneOf(args[1], args[2]).setBranch("refs/tags/" + args[3]).setDepth(1).call().close();
			case "commit" -> commit(args[1], args[2], args[3]);
			case "fetch" -> fetch(args[1]).call();
			case "fetchdepth" -> fetch(args[1]).setDepth(1).call();
			default -> throw new IllegalArgumentException("unknown step");
		}
	}

	static CloneCommand cloneOf(String url, String dir) {
		return Git.cloneRepository().setURI(url).setDirectory(new File(dir));
	}

	static void list(String url) throws Exception {
		for (var ref : Git.lsRemoteRepository().setRemote(url).call()) {
			System.out.println(ObjectId.toString(ref.getObjectId()) + " " + ref.getName());
		}
	}

	static void commit(String url, String dir, String oid) throws Exception {
		try (Git git = Git.init().setDirectory(new File(dir)).call()) {
			git.remoteAdd().setName("origin").setUri(new URIish(url)).call();
			git.fetch().setRefSpecs(new RefSpec(oid + ":refs/heads/fetched")).setDepth(1).call();
			git.checkout().setName(oid).call();
		}
	}

	static FetchCommand fetch(String dir) throws Exception {
		return Git.open(new File(dir)).fetch().setTagOpt(TagOpt.FETCH_TAGS);
	}
}
