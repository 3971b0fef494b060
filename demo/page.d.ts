// Types of the page, for the check by `tsc`; browsers read none of this.

/** A picture with its patches for one model. */
interface Picture {
  ref: string; // what addresses call it
  id: string;
  row: number | null; // in the index of the model
  width: number;
  height: number;
  rows: number;
  columns: number;
}

/** First column, first row, last column, last row. */
type Box = [number, number, number, number];
type Mode = "set" | "add" | "sub";
type Color = [number, number, number];

interface Mark {
  box: Box;
  kind: string;
}

/** An image that was found. */
interface Hit {
  row: number;
  score?: number;
  model?: number;
  facts?: Record<string, any>;
  box?: Box;
  rows?: number;
  columns?: number;
}

interface Context {
  /** Of the address. */
  params: URLSearchParams;
  /** The pictures that it names. */
  refs: () => string[];
  /** A number of it. */
  number: (key: string, preset: number) => number;
  /** 0 or 1. */
  model: number;
  /** Of the index and its models. */
  card: any;
  /** The card of the model. */
  network: any;
  /** Changes the address. */
  go: (changes: Record<string, string | number | null>, push?: boolean) => void;
  /** To another view. */
  link: (view: string, params: Record<string, string | number>) => string;
  /** Views that ask about a picture. */
  views: View[];
  /** Aborted when the view is left. */
  signal: AbortSignal;
}

/** Draws a view and returns what follows a changed address. */
type Mount = (root: HTMLElement, ctx: Context) => () => void | Promise<void>;

interface View {
  /** In addresses. */
  key: string;
  name: string;
  /** On the keyboard. */
  letter: string;
  /** What it shows. */
  lead: string;
  /** How many it works on; 0: the collection. */
  pictures: number;
  /** Why it cannot work with a network. */
  missing?: (network: any) => string | null;
  mount: Mount;
}
