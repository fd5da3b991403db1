"""Time limits, retries and exceptions as results: pages, some of which never arrive."""

import time

from cpool import Pool, TaskTimeoutError, as_completed


def fetch(page: int) -> str:
    """Runs in a worker process. Every fifth page hangs, and every seventh does not exist."""
    if page % 5 == 4:
        time.sleep(3600)
    if page % 7 == 6:
        raise ConnectionError(f"there is no page {page}")
    return f"<p>{page}</p>"


def main() -> None:
    with Pool(4) as pool:
        # A page that takes too long is killed with its worker, and delays no other page. Pages that
        # fail are fetched once more. Exceptions are not raised: they are among the results.
        pages = pool.map(
            fetch,
            range(20),
            task_timeout=0.2,
            retries=1,
            retry_on=ConnectionError,
            return_exceptions=True,
        )
        for page, text in enumerate(pages):
            if isinstance(text, TaskTimeoutError):
                print(f"page {page}: none within {text.limit} s", flush=True)
            else:
                print(f"page {page}: {text!r}", flush=True)

        # As soon as three pages have arrived, the others are not needed any more.
        results = [pool.apply_async(fetch, (page,)) for page in range(3)]
        results += [pool.apply_async(fetch, (4,)) for _ in range(50)]
        for _, result in zip(range(3), as_completed(results, timeout=60), strict=False):
            print(f"fetched {result.get()}", flush=True)
        print(f"cancelled: {sum(result.cancel() for result in results)}", flush=True)


if __name__ == "__main__":
    main()
